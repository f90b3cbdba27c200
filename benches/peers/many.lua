-- For wrk: requests 1,024 targets in turn, for a consistent hash to spread.
local TARGETS = 1024
local requests, turn = {}, 0

init = function()
  for key = 1, TARGETS do
    requests[key] = wrk.format("GET", string.format("/key%d/s128", key))
  end
end

request = function()
  turn = turn % TARGETS + 1
  return requests[turn]
end
