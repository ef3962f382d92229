"""What the server does in one step: settle, claim, promote, give back. Lua, since only a script is atomic there."""

from __future__ import annotations

from typing import Final

from umbel.brokers.redis_link import Script

__all__ = ["ARM", "GIVE_BACK", "RENEW", "RESERVE", "SWEEP", "TURN"]

# A time argument that is empty means the server's own clock, so that the clocks of workers need not agree.
_NOW: Final = """
local call = redis.call
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] + time[2] / 1000000
end
local stamp = string.format('%.6f', now)
"""

TURN: Final = Script(
    _NOW
    + """
-- Settle, then claim. KEYS: unacked, unacked_index, leases, token, paused, revoked version, dead, dead letters,
-- dead ids, ready chords, and for each consumed queue the lists of its steps and its delayed set.
-- ARGV: now, number of settlements, their tags, number of words of orders, orders (settlement, count, and that many
-- times an operation), limit (-1: no claim), lease, steps, ready chords wanted, seconds by which the lease is longer
-- than what Celery's workers leave to others, whether queues share, and for each queue its name, tail of an unacked
-- entry and tail of a tag.
local unacked, index, leases = KEYS[1], KEYS[2], KEYS[3]
local total = tonumber(ARGV[2])
local held, refused, gone = {}, {}, {}

if total > 0 then
  for first = 1, total, 1000 do
    local last = math.min(total, first + 999)
    local scores = call('ZMSCORE', index, unpack(ARGV, first + 2, last + 2))
    for i = first, last do
      local tag = ARGV[i + 2]
      local sort = string.sub(tag, 1, 1)
      if tag == '' then
        held[i] = true
      elseif sort == '=' then
        -- Once: the key is ours if nobody had it.
        local ttl, key = string.match(tag, '^=(%d+)\\n(.*)$')
        held[i] = call('SET', key, '1', 'PX', ttl, 'NX') and true or false
        if not held[i] then refused[#refused + 1] = i end
      elseif sort == '!' then
        -- Fire a chord: it must be ready.
        local key = string.sub(tag, 2)
        held[i] = call('DEL', key) == 1
        if held[i] then call('ZREM', KEYS[10], key) else refused[#refused + 1] = i end
      elseif sort == '~' then
        -- Exhume: there must be such a dead letter.
        local letter, id = string.match(tag, '^~([^\\n]*)\\n(.*)$')
        held[i] = call('HDEL', KEYS[8], letter) == 1
        if held[i] then
          call('ZREM', KEYS[7], letter)
          call('ZREM', KEYS[9], id .. '\\0' .. letter)
        else
          refused[#refused + 1] = i
        end
      elseif scores[i - first + 1] and held[tag] == nil then
        held[i], held[tag] = true, true
        gone[#gone + 1] = tag
      else
        refused[#refused + 1] = i
      end
    end
  end
  for first = 1, #gone, 1000 do
    local last = math.min(#gone, first + 999)
    call('HDEL', unacked, unpack(gone, first, last))
    call('ZREM', index, unpack(gone, first, last))
    call('ZREM', leases, unpack(gone, first, last))
  end
end

local ready = {}
local function complete(group, size)
  -- A chord is complete when as many different parts have come as it waits for (the keys are Celery's).
  local added = tonumber(call('GET', group .. '.t') or 0)
  local kind = call('TYPE', group .. '.j').ok
  local count = 0
  if kind == 'zset' then count = call('ZCARD', group .. '.j')
  elseif kind == 'list' then count = call('LLEN', group .. '.j') end
  return count >= size + added
end

local at = total + 3
local last = at + tonumber(ARGV[at])
at = at + 1
while at <= last do
  local ok, count = held[tonumber(ARGV[at])], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, count do
    local op, key, a, b = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    if op == 'P' then                                       -- push: list, message
      if ok then call('LPUSH', key, a) end
      at = at + 3
    elseif op == 'R' then                                   -- record: key, milliseconds or 0, payload
      if ok then
        local new
        if a == '0' then new = call('SET', key, b, 'NX') else new = call('SET', key, b, 'PX', a, 'NX') end
        local begin = not new and call('GETRANGE', key, 0, 39)
        local kept = begin and (string.find(begin, 'SUCCESS', 1, true)
          or string.byte(begin) == 0 and call('EXISTS', key .. '.done') == 1)  -- compressed: nobody can read it here
        if not new and not kept then
          if a == '0' then call('SET', key, b) else call('SET', key, b, 'PX', a) end
          new = true
        end
        if new then call('PUBLISH', key, b) end
      end
      at = at + 4
    elseif op == 'M' then                                  -- that record is a compressed SUCCESS: key, ms or 0
      if ok then
        if a == '0' then call('SET', key .. '.done', '') else call('SET', key .. '.done', '', 'PX', a) end
      end
      at = at + 3
    elseif op == 'Z' then                                  -- delay: set, unix seconds, member, consumers, list, message
      if ok then
        -- Only where somebody of ours consumes, for nobody else would look there. Celery holds such messages itself.
        local here = call('ZCOUNT', ARGV[at + 4], now - 30, '+inf') > 0
        if here then call('ZADD', key, a, b) else call('LPUSH', ARGV[at + 5], ARGV[at + 6]) end
      end
      at = at + 7
    elseif op == 'W' then                                   -- wait: set, seconds from now, member
      if ok then call('ZADD', key, string.format('%.6f', now + tonumber(a)), b) end
      at = at + 4
    elseif op == 'U' then                                   -- back to the front: list, message
      if ok then call('RPUSH', key, a) end
      at = at + 3
    elseif op == 'C' then                                   -- to all who listen: channel, message
      if ok then call('PUBLISH', key, a) end
      at = at + 3
    elseif op == 'D' then                                   -- bury: task id, letter
      if ok then
        local tag = string.format('%.0f', call('INCR', KEYS[4]))
        call('ZADD', KEYS[7], tag, tag)
        call('HSET', KEYS[8], tag, a)
        call('ZADD', KEYS[9], 0, key .. '\\0' .. tag)
      end
      at = at + 3
    elseif op == 'K' then                                   -- known since: set, queue
      if ok then call('ZADD', key, stamp, a) end
      at = at + 3
    elseif op == 'X' then                                   -- a queue that expires: list, milliseconds
      if ok then call('PEXPIRE', key, a) end
      at = at + 3
    elseif op == 'H' then                                   -- a note: book, name, "+" and text or "-"
      if ok then
        if string.sub(b, 1, 1) == '+' then call('HSET', key, a, string.sub(b, 2)) else call('HDEL', key, a) end
      end
      at = at + 4
    elseif op == 'S' then                                   -- size of a chord: group key, size, milliseconds or 0
      if ok and call('EXISTS', key .. '.s', key .. '.r') == 0 then
        if b == '0' then call('SET', key .. '.s', a) else call('SET', key .. '.s', a, 'PX', b) end
        call('DEL', key .. '.c')
      end
      at = at + 4
    elseif op == 'A' then                                   -- one more to wait for: group key, task id, ms or 0
      if ok and call('EXISTS', key .. '.s') == 1 and call('SADD', key .. '.a', a) == 1 then
        call('INCR', key .. '.t')
        if b ~= '0' then call('PEXPIRE', key .. '.t', b); call('PEXPIRE', key .. '.a', b) end
      end
      at = at + 4
    elseif op == 'T' then      -- part: group key, score, id:index, payload, body, milliseconds or 0, hold until, group
      local payload, body, ttl, group = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 8]
      -- A worker of Celery's that has counted the last part claims the chord for a while, then says that it is done.
      local claimed = call('GET', key .. '.c')
      if ok and call('EXISTS', key .. '.r') == 0 and claimed ~= 'done' then
        -- Celery's senders tell the size just before they send the last task, so there may be none yet.
        local size = tonumber(call('GET', key .. '.s') or nil)
        if call('SADD', key .. '.d', b) == 1 then
          local kind = call('TYPE', key .. '.j').ok
          if kind == 'list' then call('RPUSH', key .. '.j', payload)
          else
            if a == '+inf' then a = 1e15 + call('ZCARD', key .. '.j') end  -- in order of arrival
            call('ZADD', key .. '.j', a, payload)
          end
          if not size and ttl == '0' then ttl = '86400000' end
          if ttl ~= '0' then
            for _, part in ipairs({'.s', '.t', '.j', '.d'}) do call('PEXPIRE', key .. part, ttl) end
          end
        end
        if size and not claimed and complete(key, size) then
          local parts
          if call('TYPE', key .. '.j').ok == 'list' then parts = call('LRANGE', key .. '.j', 0, -1)
          else parts = call('ZRANGE', key .. '.j', 0, -1) end
          call('RPUSH', key .. '.r', group, body, unpack(parts, 1, math.min(#parts, 4000)))
          for i = 4001, #parts do call('RPUSH', key .. '.r', parts[i]) end
          call('ZADD', KEYS[10], now + 5, key .. '.r')
          -- Celery's workers find it done; the claim is ours.
          call('SET', key .. '.c', 'done', 'PX', 300000)
          call('DEL', key .. '.s', key .. '.t', key .. '.j', key .. '.d', key .. '.a')
          ready[#ready + 1] = call('LRANGE', key .. '.r', 0, -1)
        end
      end
      at = at + 9
    else
      return redis.error_reply('umbel: unknown operation ' .. tostring(op))
    end
  end
end

local limit, lease, steps = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
local chords, beyond, fair = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5] == '1'
at = at + 6
local answer = {stamp, refused, ready, false, false, false, false}
if limit < 0 then return answer end

if chords > 0 then
  for _, key in ipairs(call('ZRANGEBYSCORE', KEYS[10], '-inf', stamp, 'LIMIT', 0, chords)) do
    local found = call('LRANGE', key, 0, -1)
    if #found > 0 then
      call('ZADD', KEYS[10], now + 5, key)
      ready[#ready + 1] = found
    else
      call('ZREM', KEYS[10], key)
    end
  end
end

-- What a dead holder left behind goes first; the caller puts the evidence into it and comes again.
local late = call('ZRANGEBYSCORE', leases, '-inf', stamp, 'LIMIT', 0, 200)
if #late > 0 then
  answer[4], answer[5] = late, call('HMGET', unacked, unpack(late))
  return answer
end
answer[6] = call('GET', KEYS[6])

local paused = {}
for _, name in ipairs(call('SMEMBERS', KEYS[5])) do paused[name] = true end
local queues, width = {}, steps + 1
for place = 0, (#ARGV - at + 1) / 3 - 1 do
  local name, entry, tag = unpack(ARGV, at + place * 3, at + place * 3 + 2)
  if not paused[name] then
    local first = 11 + place * width
    queues[#queues + 1] = {place = place, first = first, entry = entry, tag = tag}
    local delayed = KEYS[first + steps]
    local due = call('ZRANGEBYSCORE', delayed, '-inf', stamp, 'LIMIT', 0, 500)
    if #due > 0 then
      call('ZREM', delayed, unpack(due))
      for i = #due, 1, -1 do
        call('RPUSH', KEYS[first + tonumber(string.sub(due[i], 1, 1), 36)], string.sub(due[i], 2))
      end
    end
  end
end

local claimed, count, left = {}, 0, limit
for step = 0, steps - 1 do
  local filled = queues
  while left > 0 and #filled > 0 do
    local share, still = fair and math.max(1, math.floor(left / #filled)) or left, {}
    for _, queue in ipairs(filled) do
      local want = math.min(share, left)
      if want > 0 then
        local found = call('RPOP', KEYS[queue.first + step], want)
        if found then
          left, count = left - #found, count + #found
          claimed[#claimed + 1] = {queue, found}
          if #found == want then still[#still + 1] = queue end
        end
      end
    end
    filled = still
  end
end

if count > 0 then
  local token = call('INCRBY', KEYS[4], count) - count
  local until_, seen_ = string.format('%.6f', now + lease), string.format('%.6f', now + beyond)
  local reply = {string.format('%.0f', token + 1)}
  local entries, scores, ends = {}, {}, {}
  local function write()
    call('HSET', unacked, unpack(entries))
    call('ZADD', index, unpack(scores))
    call('ZADD', leases, unpack(ends))
    entries, scores, ends = {}, {}, {}
  end
  local size = 0
  for _, pair in ipairs(claimed) do
    local queue, found = pair[1], pair[2]
    reply[#reply + 1] = queue.place
    reply[#reply + 1] = found
    for _, message in ipairs(found) do
      token = token + 1
      local tag = string.format('%.0f', token) .. queue.tag
      size = size + 2
      entries[size - 1], entries[size] = tag, '[' .. message .. queue.entry
      scores[size - 1], scores[size] = seen_, tag
      ends[size - 1], ends[size] = until_, tag
      if size >= 1000 then write(); size = 0 end
    end
  end
  if size > 0 then write() end
  answer[7] = reply
end
if left > 0 then
  local first = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  answer[4] = first[2] or false
end
return answer
"""
)
"""Settle and claim; also publish, which is a settlement of nothing."""

ARM: Final = Script(
    """
-- Look at what may bring work, so that the server tells us when it changes (CLIENT TRACKING).
-- KEYS: paused, and for each queue the lists of its steps and its delayed set. ARGV: steps, names of the queues.
local call, steps = redis.call, tonumber(ARGV[1])
local ready, due = 0, false
local paused = {}
for _, name in ipairs(call('SMEMBERS', KEYS[1])) do paused[name] = true end
for place = 0, #ARGV - 2 do
  local first = 2 + place * (steps + 1)
  local lists = call('EXISTS', unpack(KEYS, first, first + steps - 1))
  local head = call('ZRANGE', KEYS[first + steps], 0, 0, 'WITHSCORES')
  if not paused[ARGV[place + 2]] then
    ready = ready + lists
    if head[2] and (not due or tonumber(head[2]) < tonumber(due)) then due = head[2] end
  end
end
return {ready, due}
"""
)

RENEW: Final = Script(
    _NOW
    + """
-- Hold what is ours. KEYS: unacked_index, leases. ARGV: now, lease, seconds by which that is longer than what Celery's
-- workers leave to others, tags. Returns the places of what is ours no longer.
local until_, seen_ = string.format('%.6f', now + ARGV[2]), string.format('%.6f', now + ARGV[3])
local lost = {}
for first = 4, #ARGV, 1000 do
  local last = math.min(#ARGV, first + 999)
  local scores = call('ZMSCORE', KEYS[1], unpack(ARGV, first, last))
  local seen, ends, size = {}, {}, 0
  for i = first, last do
    if scores[i - first + 1] then
      size = size + 2
      seen[size - 1], seen[size] = seen_, ARGV[i]
      ends[size - 1], ends[size] = until_, ARGV[i]
    else
      lost[#lost + 1] = i - 4
    end
  end
  if size > 0 then
    call('ZADD', KEYS[1], 'XX', unpack(seen))
    call('ZADD', KEYS[2], unpack(ends))
  end
end
return lost
"""
)

GIVE_BACK: Final = Script(
    _NOW
    + """
-- Put back what a dead holder left. KEYS: unacked, unacked_index, leases, the set that says who is dead.
-- ARGV: now, seconds of silence, and for each entry its tag, list and message. Returns how many went back.
local limit, count = now - tonumber(ARGV[2]), 0
for i = 3, #ARGV, 3 do
  local score = tonumber(call('ZSCORE', KEYS[4], ARGV[i]) or nil)
  if score and score <= limit then
    if call('HDEL', KEYS[1], ARGV[i]) == 1 then
      call('RPUSH', ARGV[i + 1], ARGV[i + 2])
      count = count + 1
    end
    call('ZREM', KEYS[2], ARGV[i])
    call('ZREM', KEYS[3], ARGV[i])
  end
end
return count
"""
)
"""Atomic for each entry, so that Celery's own recovery may run beside it."""

RESERVE: Final = Script(
    _NOW
    + """
-- Stand in line. KEYS: the line. ARGV: now, interval, how many starts. Returns seconds until the first.
local first = math.max(now, tonumber(call('GET', KEYS[1]) or nil) or now)
local free = first + ARGV[2] * ARGV[3]
call('SET', KEYS[1], string.format('%.6f', free), 'PX', math.ceil((free - now) * 1000) + 1000)
return string.format('%.6f', first - now)
"""
)

SWEEP: Final = Script(
    _NOW
    + """
-- Remove bindings that nobody has used for their time (PRT-122), and the names of queues that are empty and were not
-- used for a day. KEYS: deadlines, queues. ARGV: now, beginnings of the keys of bindings, of permanent ones, of lists
-- and of delayed sets, then separator and step of each further list.
for _, exchange in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', now * 1000, 'LIMIT', 0, 100)) do
  if call('EXISTS', ARGV[3] .. exchange) == 0 then call('DEL', ARGV[2] .. exchange) end
  call('ZREM', KEYS[1], exchange)
end
for _, queue in ipairs(call('ZRANGEBYSCORE', KEYS[2], '-inf', now - 86400, 'LIMIT', 0, 100)) do
  local used = call('EXISTS', ARGV[4] .. queue, ARGV[5] .. queue)
  for i = 6, #ARGV do used = used + call('EXISTS', ARGV[4] .. queue .. ARGV[i]) end
  if used == 0 then call('ZREM', KEYS[2], queue) else call('ZADD', KEYS[2], stamp, queue) end
end
"""
)
