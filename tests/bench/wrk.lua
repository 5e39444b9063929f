-- For wrk: prints one line of JSON at the end. With the argument `session`, each request has one of 10,000 sessions; with
-- `chat` it is a chat completion of OpenAI's.
local with_session = false

function init(args)
  with_session = args[1] == "session"
  if args[1] == "chat" then
    wrk.method, wrk.path = "POST", "/v1/chat/completions"
    wrk.headers["content-type"] = "application/json"
    wrk.headers["authorization"] = "Bearer sk-bench"
    wrk.body = '{"model": "bench", "messages": [{"role": "user", "content": "hello"}]}'
  end
end

function request()
  if with_session then
    wrk.headers["x-session-id"] = "session-" .. math.random(10000)
  end
  return wrk.format()
end

function done(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write +
    summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %f, "failed": %d, "refused": %d, "p50": %f, "p99": %f, "p999": %f}\n',
    summary.requests, summary.duration / 1e6, failed, summary.errors.status, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3))
end
