// Traffic of the last `keep` seconds: counts by second, route and bucket, and the figures computed from them.

export class History {
  constructor(bounds = [], keep = 300) {
    this.bounds = bounds;
    this.keep = keep;
    this.seconds = [];
  }

  reset(bounds, keep, seconds) {
    this.bounds = bounds;
    this.keep = keep;
    this.seconds = seconds.slice(-keep);
  }

  add(second) {
    this.seconds.push(second);
    if (this.seconds.length > this.keep) this.seconds.splice(0, this.seconds.length - this.keep);
  }

  get now() {
    return this.seconds.length ? this.seconds[this.seconds.length - 1][0] : Date.now() / 1000;
  }

  /* Names of all routes with requests. */
  routes() {
    const names = new Set();
    for (const [, routes] of this.seconds) for (const name in routes) names.add(name);
    return names;
  }

  /* Sums of the last `span` seconds, by route. */
  recent(span) {
    const sums = new Map();
    for (const [, routes] of this.seconds.slice(-span)) {
      for (const name in routes) {
        if (!sums.has(name)) sums.set(name, this.empty());
        addTo(sums.get(name), routes[name]);
      }
    }
    return sums;
  }

  empty() {
    return { errors: 0, fallbacks: 0, calls: 0, counts: new Array(this.bounds.length + 1).fill(0) };
  }

  /* Columns for the plots: times, requests, share of errors, three percentiles.  The route "" stands for all routes.
     Percentiles are those of the last `smooth` seconds, because one second of a quiet route has too few requests. */
  columns(route, smooth = 5) {
    const times = [], calls = [], errors = [], p50 = [], p90 = [], p99 = [];
    const window = this.empty();
    const counted = (index, sign) => {
      const before = { calls: window.calls, errors: window.errors };
      const [, routes] = this.seconds[index] ?? [0, {}];
      if (route === "") for (const name in routes) addTo(window, routes[name], sign);
      else if (routes[route]) addTo(window, routes[route], sign);
      return { calls: window.calls - before.calls, errors: window.errors - before.errors };
    };
    this.seconds.forEach(([time], index) => {
      const sum = counted(index, 1);
      counted(index - smooth, -1);
      times.push(time);
      calls.push(sum.calls);
      errors.push(sum.calls ? (100 * sum.errors) / sum.calls : null);
      for (const [column, share] of [[p50, 0.5], [p90, 0.9], [p99, 0.99]]) column.push(this.percentile(window, share, 1000));
    });
    return { times, calls, errors, p50, p90, p99 };
  }

  /* Requests and errors in `points` steps, for a small line in the table. */
  spark(route, points = 60) {
    const step = this.keep / points;
    const calls = new Array(points).fill(0), errors = new Array(points).fill(0);
    const offset = this.keep - this.seconds.length;
    this.seconds.forEach(([, routes], index) => {
      const counts = routes[route];
      if (!counts) return;
      const slot = Math.floor((index + offset) / step);
      for (let place = 3; place < counts.length; place += 2) calls[slot] += counts[place];
      errors[slot] += counts[0];
    });
    return { calls, errors };
  }

  /* The middle of the percentile's bucket; for values beyond the last bound, that bound. */
  percentile(sum, share, scale = 1) {
    if (!sum.calls) return null;
    let left = share * sum.calls;
    for (let bucket = 0; bucket < sum.counts.length; bucket++) {
      const count = sum.counts[bucket];
      if (count && left <= count) {
        const low = bucket ? this.bounds[bucket - 1] : 0;
        return scale * ((low + (this.bounds[bucket] ?? low)) / 2);
      }
      left -= count;
    }
    return scale * this.bounds[this.bounds.length - 1];
  }
}

/* Adds `[errors, fallbacks, bucket, count, …]` to a sum; with a sign of -1 it subtracts them. */
function addTo(sum, sparse, sign = 1) {
  sum.errors += sign * sparse[0];
  sum.fallbacks += sign * sparse[1];
  for (let place = 2; place < sparse.length; place += 2) {
    const count = sign * sparse[place + 1];
    sum.counts[sparse[place]] += count;
    sum.calls += count;
  }
}
