-- Shares the slots of one model among the workers that are alive: what each may hold, never more than the limit together.
--
-- KEYS[1]  a hash: ":born" -> ms, 0 when it is settled; worker -> "seq granted want limit ends turn target press", numbers all
-- ARGV     worker, seq, held, keep, want, limit, workers, ttl_ms, channels, subject
--   held     slots in use             keep  what the worker will not exceed until it has the answer; never less than held
--   want     held and waiting; -1: the worker leaves
--   limit    the lowest that anybody alive knows counts, so that all count alike while a new one is made known
--   workers  how many there should be  channels, subject  where others are told: CHANNELS..worker, "SUBJECT\nTARGET PRESS"
-- Returns  {granted, target, press, workers alive}
--   target   what would be fair: max-min over what is wanted; what nobody wants is room for the next requests, in equal parts
--   press    0: no hurry; 1: somebody has no room left, or more is granted than the limit (a lower one, a return), give back what is
--            above the target; 2: more is wanted than there is, give back whatever is not used
--
-- Safe because granted only rises by what is free, and only falls to what its own worker has promised to keep. A call that
-- comes after a later one of the same worker changes nothing (`seq`): its caller has stopped waiting for it.
--
-- A hash that is new may stand for one that was lost, with grants that are still in use; one in which everybody is dead, for an
-- outage that they have survived. Until every grant of before has ended (one ttl) or all workers have been heard, nobody grows past
-- an equal part.

local HOUR_MS = 3600000
local FIELDS = {'seq', 'granted', 'want', 'limit', 'ends', 'turn', 'told_target', 'told_press'}

local function read(id, text)
  local one, i = {id = id}, 0
  for number in string.gmatch(text, '%d+') do
    i = i + 1
    one[FIELDS[i]] = tonumber(number)
  end
  return one
end

local function write(one)
  local numbers = {}
  for i, name in ipairs(FIELDS) do numbers[i] = string.format('%.0f', one[name]) end
  redis.call('HSET', KEYS[1], one.id, table.concat(numbers, ' '))
end

-- Who was given something longest ago comes first.
local function earlier(a, b)
  if a.turn ~= b.turn then return a.turn < b.turn end
  return a.id < b.id
end

-- Whose turn it is for what is left when equal parts are whole numbers: those without it by their turns, then those with it, the
-- latest first. So it goes round.
local function by_turn(level)
  return function(a, b)
    local has_a, has_b = a.granted > level, b.granted > level
    if has_a ~= has_b then return has_b end
    if has_a then return earlier(b, a) end
    return earlier(a, b)
  end
end

-- Sets every target. Returns the equal part of those who want more than theirs, or nil where everybody can have what is wanted.
local function divide(all, limit)
  table.sort(all, function(a, b)
    if a.want ~= b.want then return a.want < b.want end
    return a.id < b.id
  end)
  local rest = limit
  for i, one in ipairs(all) do
    local left = #all - i + 1
    local level = math.floor(rest / left)
    if math.min(one.want, limit) > level then
      local greedy = {}
      for j = i, #all do
        greedy[#greedy + 1] = all[j]
        all[j].target = level
      end
      table.sort(greedy, by_turn(level))
      for j = 1, rest - level * left do greedy[j].target = level + 1 end
      return level
    end
    one.target = math.min(one.want, limit)
    rest = rest - one.target
  end
  table.sort(all, function(a, b) return a.id < b.id end)
  local part = math.floor(rest / #all)
  for i, one in ipairs(all) do
    one.target = one.target + part
    if i <= rest - part * #all then one.target = one.target + 1 end
  end
  return nil
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, seq, held, keep, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local limit, workers, ttl_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local leaves = want < 0

local born, mine = nil, nil
local all, others = {}, 0
local died = false
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] == ':born' then
    born = tonumber(fields[i + 1])
  else
    local one = read(fields[i], fields[i + 1])
    if one.id == me then
      mine = one -- late as it may be: nobody has asked since, so nothing of it was given away
    elseif one.ends > now then
      all[#all + 1] = one
      others = others + one.granted
      if leaves and #all == 1 then limit = one.limit end
      limit = math.min(limit, one.limit)
    else
      redis.call('HDEL', KEYS[1], one.id)
      died = true
    end
  end
end
if mine and seq <= mine.seq then return {mine.granted, mine.told_target, mine.told_press, #all + 1} end

local moved = died or leaves -- whether something may have become free for others
if not born or (#all == 0 and (died or mine) and not (mine and mine.ends > now)) then
  born = now
  redis.call('HSET', KEYS[1], ':born', string.format('%.0f', born))
end
local settled = now >= born + ttl_ms
if not settled and #all + 1 >= workers then
  redis.call('HSET', KEYS[1], ':born', '0') -- for good: whoever comes from now on is new
  settled, moved = true, true
end
redis.call('PEXPIRE', KEYS[1], math.max(HOUR_MS, 10 * ttl_ms))

local caller, kept = nil, 0
if leaves then
  redis.call('HDEL', KEYS[1], me)
else
  kept = keep
  if settled and not mine then kept = held end -- whoever was forgotten for so long owns no more than what it cannot give back
  caller = {id = me, seq = seq, granted = kept, want = want, limit = tonumber(ARGV[6]), ends = now + ttl_ms,
    turn = mine and mine.turn or 0}
  all[#all + 1] = caller
end
if #all == 0 then return {0, 0, 0, 0} end

local level = divide(all, limit)
if not settled then
  local part = math.max(1, math.floor(limit / workers))
  for _, one in ipairs(all) do one.target = math.min(one.target, math.max(part, one.granted)) end
end

-- Something free goes to whom it is owed longest: one slot stays for each who waits and whose turn is earlier. Room for requests
-- that are not there yet comes after all who are.
local function owed(one) return math.max(0, math.min(one.target, one.want) - one.granted) end
if caller then
  local free = limit - others
  for _, one in ipairs(all) do
    if one ~= caller and owed(one) > 0 then
      if want <= kept then free = free - owed(one)
      elseif earlier(one, caller) then free = free - 1 end
    end
  end
  caller.granted = math.max(kept, math.min(caller.target, free))
  if caller.granted > kept then caller.turn = now * 1000 + time[2] % 1000 end
  moved = moved or (mine and (caller.granted < mine.granted or (mine.want > mine.granted and want <= caller.granted)))
  others = others + caller.granted
end

-- A worker is told to give when that is news to it, and to take when something has become free: first those who wait, then those
-- without room, in the order of their turns. Each answers with a call.
local free = moved and limit - others or 0
local room = free
local short, who = 0, nil
table.sort(all, earlier)
for _, one in ipairs(all) do
  if one ~= caller then room = room - owed(one) end
  if one.want > 0 and one.want >= one.granted and one.target > one.granted then short, who = short + 1, one end
end
for _, one in ipairs(all) do
  local press = 0
  if level then press = 2
  elseif one.granted > one.target and (others > limit or short > 1 or (short == 1 and who ~= one)) then press = 1 end
  local calls = one ~= caller and (press > one.told_press
    or (press > 0 and one.granted > one.target and one.told_target ~= one.target))
  if one ~= caller and owed(one) > 0 and free > 0 then
    calls, free = true, free - owed(one)
  elseif one ~= caller and one.want > 0 and one.want == one.granted and one.target > one.granted and room > 0 then
    calls, room = true, room - (one.target - one.granted)
  end
  if one == caller or calls then
    one.told_target, one.told_press = one.target, press
    write(one)
  end
  if calls then redis.call('PUBLISH', ARGV[9] .. one.id, string.format('%s\n%.0f %d', ARGV[10], one.target, press)) end
end
if not caller then return {0, 0, 0, #all} end
return {caller.granted, caller.target, caller.told_press, #all}
