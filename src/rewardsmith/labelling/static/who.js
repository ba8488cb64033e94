"use strict";
// Who labels: a name, or the key that says it; kept for this tab, or this browser.

async function begin() {
  at("loading").hidden = true;
  try {
    me.key = sessionStorage.getItem("rewardsmith.key") ?? "";
  } catch {
    // asked for each time
  }
  let hello;
  try {
    hello = await askPatiently("/api/hello");
  } catch (error) {
    if (error.status !== 401) return alert_(error.message);
    return signIn(true, me.key ? "The server does not know this key." : "");
  }
  server.project = hello.project;
  server.needsKey = hello.needs_key;
  server.leaseSeconds = hello.lease_seconds;
  at("project").textContent = hello.title;
  me.name = hello.annotator ?? session.get("name") ?? "";
  if (!me.name) return signIn(false, "");
  return enter();
}

function signIn(needsKey, problem) {
  at("name-field").hidden = needsKey;
  at("key-field").hidden = !needsKey;
  only("sign-in");
  at("verdict").hidden = false;
  alert_(problem);
  at(needsKey ? "key-input" : "name-input").focus();
}

function enter() {
  alert_("");
  at("name").textContent = me.name;
  at("who").hidden = false;
  at("team").hidden = false;
  outbox?.close();
  outbox = new Outbox(server.project, me.name, ask, { kept, refused, changed, unknown });
  now.done = session.get(`done.${server.project}.${me.name}`) ?? [];
  outbox.send();
  changed("");
  for (const name of outbox.refused.names()) told(outbox.refused.get(name));
  forward();
}

function leave() {
  giveBack();
  outbox?.close();
  outbox = null;
  now.set = now.next = now.asking = now.back = null;
  now.picks.clear();
  me.key = me.name = "";
  session.drop("name");
  try {
    sessionStorage.removeItem("rewardsmith.key");
  } catch {
    // nothing was kept
  }
  at("who").hidden = true;
  at("team").hidden = true;
  begin();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("key-field").hidden) {
    const name = at("name-input").value.trim();
    if (!name) return alert_("Give a name.");
    me.name = name;
    session.put("name", name);
    return enter();
  }
  me.key = at("key-input").value.trim();
  at("key-input").value = "";
  try {
    sessionStorage.setItem("rewardsmith.key", me.key);
  } catch {
    // asked for again after a reload
  }
  return begin();
});
at("leave").addEventListener("click", leave);

function unknown() {
  signIn(true, "The server no longer knows this key. Your labels wait on this device.");
}
