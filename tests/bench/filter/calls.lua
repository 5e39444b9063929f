-- An acquire before each request and a release behind it, each by one HTTP call to webdis; or the acquire alone, as RESP to a
-- cluster that opens a connection for each call: Envoy drops the second call of such a request.
local keys = {POOL_KEYS}

local function encode(arguments)
  if 'HOW' == 'webdis' then
    return table.concat(arguments, '/')
  end
  local parts = {'*' .. #arguments .. '\r\n'}
  for i = 1, #arguments do
    parts[#parts + 1] = '$' .. #arguments[i] .. '\r\n' .. arguments[i] .. '\r\n'
  end
  return table.concat(parts)
end

local function evalsha(sha, ...)
  local arguments = {'EVALSHA', sha, tostring(#keys)}
  for i = 1, #keys do
    arguments[#arguments + 1] = keys[i]
  end
  for _, argument in ipairs({...}) do
    arguments[#arguments + 1] = argument
  end
  return encode(arguments)
end

local headers = {[':method'] = 'POST', [':path'] = '/', [':authority'] = 'redis'}

function envoy_on_request(handle)
  local lease = handle:headers():get('x-request-id')
  local seed = tostring(math.random(0, 2147483647))
  local ttl = 'HOW' == 'webdis' and '15000' or '1000'
  local body = evalsha('ACQUIRE_SHA', ttl, seed, '200000', 'take', '0', lease)
  local _, reply = handle:httpCall('calls', headers, body, 5000)
  local account = string.match(reply or '', 'a%d+')
  if not account then
    handle:respond({[':status'] = '500'}, 'no account')
    return
  end
  handle:headers():replace('x-slotgate-account', account)
  handle:headers():replace('x-upstream', 'acct_1')
  handle:streamInfo():dynamicMetadata():set('bench', 'lease', lease)
end

function envoy_on_response(handle)
  local bench = handle:streamInfo():dynamicMetadata():get('bench')
  if bench and 'HOW' == 'webdis' then
    handle:httpCall('calls', headers, evalsha('RELEASE_SHA', bench.lease), 5000, true)
  end
end
