-- For wrk: each request is another one by its query, which begins with the argument and ends with a number.
local first, number = "", 0

function init(arguments)
  first = arguments[1]
end

function request()
  number = number + 1
  return wrk.format("GET", string.format("%s?%s-%d", wrk.path, first, number))
end
