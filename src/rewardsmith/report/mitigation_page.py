def write_mitigation_page(result, path):
    pass
