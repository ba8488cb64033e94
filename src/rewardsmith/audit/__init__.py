"""How a reward model will be hacked: edits that are worth nothing, and what the reward makes of them."""

from rewardsmith.audit.probes import Cell, Contrast, ContrastSet, Overtake, Pair, Probe, probe, text_probe
from rewardsmith.audit.run import audit, builtin_probes
from rewardsmith.audit.seeds import Seed, Seeds, load_seeds, sample
from rewardsmith.edits import Edit

__all__ = [
    "Cell",
    "Contrast",
    "ContrastSet",
    "Edit",
    "Overtake",
    "Pair",
    "Probe",
    "Seed",
    "Seeds",
    "audit",
    "builtin_probes",
    "load_seeds",
    "probe",
    "sample",
    "text_probe",
]
