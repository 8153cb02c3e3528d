async (count) => {
  const { History } = await import("/page/history.js");
  const panels = await import("/page/panels.js");
  window.ticks ??= { history: new History([0.1, 1], 300), at: 0 };
  const t = window.ticks;
  for (let n = 0; n < count; n++) {
    t.at++;
    t.history.add([t.at, { order: [n % 2, 0, 0, 5, 1, n % 7] }]);
    if (n % 20) continue;
    const model = { now: t.at, route: "", history: t.history, parts: {
      routes: { order: { upstream: "orders" } },
      events: Array.from({ length: 100 }, (_, i) => ({ time: new Date((t.at + i) * 1000).toISOString(), level: "info", event: "ready" })),
      refusals: [{ at: t.at, count: t.at, route: "order", reason: "overloaded", policy: "concurrency", where: "a.yaml:1", detail: `${t.at} in flight` }],
      "state.breaker": { b: { state: t.at % 3 ? "open" : "closed", why: `${t.at}`, history: [{ at: t.at, after: "open", why: "x" }] } },
    } };
    for (const name of ["routes", "breakers", "endpoints", "refusals", "limits", "budgets", "caches", "reloads", "events"]) panels[name](model, () => {});
  }
  return [document.querySelectorAll("*").length, t.history.seconds.length];
}
