// Sends what a shopper does to the gateway (docs/clients.md). Without consent, nothing is stored.
{
  const idleMs = 18e5, batch = 20, queueMax = 200, self = {}, id = () => crypto.randomUUID();
  let address, granted = [], queue = [], count = 1e6, failures = 0, busy, timer;

  const storage = (use) => {
    try { return use(localStorage); } catch { /* refused or full: memory has to do */ }
  };
  const keys = () => (storage(Object.keys) || []).filter((key) => /^headrace(\.|$)/.test(key)).sort();
  const read = (key) => storage((s) => JSON.parse(s[key]));
  const store = (key, value) => granted[0] && storage((s) => { s[key] = JSON.stringify(value); });
  const remove = (key) => storage((s) => s.removeItem(key));
  const keyOf = (event) => "headrace." + event.id;
  const done = (events) => events.map(keyOf).forEach(remove);
  const update = (change) => store("headrace", Object.assign(self, read("headrace"), change));
  const later = (s) => { timer = timer || setTimeout(send, s * 1e3); };

  const send = async () => {
    timer = 0;
    if (busy || !address || !queue[0]) return;
    const events = queue.splice(0, batch), body = JSON.stringify(events), keepalive = body.length < 2e4;
    busy = true;
    const { status = 0 } = await fetch(address, { method: "POST", body, keepalive }).catch(() => ({}));
    busy = false;
    if (!status || status === 408 || status === 429 || status > 499) {
      queue.unshift(...events);
      return later(2 ** Math.min(failures++, 6) * (0.5 + Math.random() / 2));
    }
    failures = 0;
    done(events);
    if (queue[0]) later(0);
  };
  const leave = () => {
    if (!address || (failures && granted[0])) return; // a later page sends what is stored
    for (let events; (events = queue.splice(0, batch))[0]; done(events)) {
      if (!navigator.sendBeacon(address, JSON.stringify(events))) return queue.unshift(...events);
    }
  };

  const commands = {
    init({ url, key, consent = [] }) {
      address = url + "/v1/events?key=" + encodeURIComponent(key);
      queue = keys().filter((key) => key[8]).map(read).filter(Boolean).concat(queue);
      commands.consent(consent);
      later(0);
    },
    consent(purposes) {
      granted = purposes;
      if (!granted[0]) return keys().forEach(remove);
      update();
      queue.forEach((event) => store(keyOf(event), event));
    },
    login(shopper = "") {
      if (shopper === self.shopper) return;
      update(shopper ? { shopper } : { shopper, session: "" });
      if (shopper) commands.track("login");
    },
    track(type, data) {
      update();
      const at = Date.now(), session = (at - self.at < idleMs && self.session) || id();
      update({ client: self.client || id(), session, at });
      const subject = self.shopper || self.client;
      data = { ...data, session_id: session, consent: granted };
      const event = { id: [at, count++, id()].join("."), type, time: new Date(at), subject, data };
      queue.push(event);
      store(keyOf(event), event);
      if (queue[queueMax]) done([queue.shift()]);
      later(1);
    },
  };
  const early = window.headrace?.q || [];
  window.headrace = (command, ...values) => commands[command](...values);
  early.forEach((call) => headrace(...call));
  addEventListener("pagehide", leave);
  addEventListener("visibilitychange", () => document.hidden && leave());
}
