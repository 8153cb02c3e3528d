-- For wrk: two paths in turn, so many requests to each, every request another one by its query; tells the CPU time that a
-- process used for those to each path.  Arguments: what queries begin with, the clock of the process, requests that are
-- sent at a turn's beginning and do not count, those that count, the paths.
local ffi = require("ffi")
ffi.cdef("struct timespec { long tv_sec; long tv_nsec; }; int clock_gettime(int, struct timespec *);")

local instant = ffi.new("struct timespec")
local first, clock, skipped, counted, paths
local turn, sent, number, began, spent = 1, 0, 0, 0, 0
pairs_done, used_first, used_second = 0, 0, 0

local function now()
  assert(ffi.C.clock_gettime(clock, instant) == 0, "the process is gone")
  return tonumber(instant.tv_sec) + tonumber(instant.tv_nsec) / 1e9
end

function setup(thread)
  only = thread
end

function init(arguments)
  first, clock = arguments[1], tonumber(arguments[2])
  skipped, counted = tonumber(arguments[3]), tonumber(arguments[4])
  paths = { arguments[5], arguments[6] }
end

function request()
  if sent == skipped then
    began = now()
  elseif sent == skipped + counted then
    if turn == 1 then
      spent = now() - began
    else
      pairs_done, used_first, used_second = pairs_done + 1, used_first + spent, used_second + now() - began
    end
    turn, sent = 3 - turn, 0
  end
  sent, number = sent + 1, number + 1
  return wrk.format("GET", string.format("%s?%s-%d", paths[turn], first, number))
end

function done()
  print(string.format("Turns: %d %.9f %.9f", only:get("pairs_done"), only:get("used_first"), only:get("used_second")))
end
