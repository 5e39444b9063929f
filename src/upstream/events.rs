//! A stream of server-sent events that begins with an error: a 200 that is none. Only the first event is read, in bounds.
//!
//! | provider | what it sends | source |
//! |---|---|---|
//! | Anthropic | `event: error`, then `data: {"type":"error","error":{"type":"overloaded_error", …}}` | Claude's docs *Errors* and *Streaming* |
//! | OpenAI, and what speaks like it | `data: {"error":{"type":…,"code":"rate_limit_exceeded", …}}`; of responses `data: {"type":"error","code":…}` | OpenAI's API reference |
//! | OpenRouter | comments such as `: OPENROUTER PROCESSING`, then `data: {"error":{"code":429, …}}` | OpenRouter's docs *Errors* |

use serde_json::Value;

/// No more of a stream is looked at than this, in bytes.
pub const MOST: usize = 4_096;

/// An error that a stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// The account asks for a rest.
    Pushback,
    /// The account failed.
    Failed,
}

/// What is known of the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstEvent {
    /// It has not come to its end.
    More,
    /// It is no error, or longer than is looked at.
    Good,
    /// It is one.
    Error(StreamError),
}

/// Whether a `content-type` is that of a stream of events.
#[must_use]
pub fn is_stream(content_type: &[u8]) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let kind = content_type.split_at_checked(KIND.len());
    kind.is_some_and(|(kind, after)| {
        kind.eq_ignore_ascii_case(KIND) && matches!(after.first(), None | Some(b';' | b' '))
    })
}

/// Reads the beginning of a stream. Blocks without data, such as comments, are no events.
#[must_use]
pub fn first_event(text: &[u8]) -> FirstEvent {
    let (mut is_error, mut data) = (false, Vec::new());
    let mut rest = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at_checked(at).unwrap_or_default();
        rest = after.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if !data.is_empty() {
                return judge(is_error, &data);
            }
            is_error = false;
        } else if let Some(value) = line.strip_prefix(b"event:") {
            is_error = value.trim_ascii() == b"error";
        } else if let Some(value) = line.strip_prefix(b"data:") {
            data.extend_from_slice(value);
            data.push(b'\n');
        }
    }
    if text.len() >= MOST {
        FirstEvent::Good
    } else {
        FirstEvent::More
    }
}

/// Kinds of errors, and numbers, that ask for a rest.
const PUSHBACK: [&str; 5] = [
    "overloaded_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "429",
    "529",
];

fn judge(is_error: bool, data: &[u8]) -> FirstEvent {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let inner = value.get("error").filter(|error| error.is_object());
    if !is_error && inner.is_none() && value.get("type").and_then(Value::as_str) != Some("error") {
        return FirstEvent::Good;
    }
    let is_pushback = |of: &Value| {
        ["type", "code"].iter().any(|name| match of.get(*name) {
            Some(Value::String(word)) => PUSHBACK.contains(&word.as_str()),
            Some(Value::Number(number)) => matches!(number.as_u64(), Some(429 | 529)),
            _ => false,
        })
    };
    FirstEvent::Error(if is_pushback(&value) || inner.is_some_and(is_pushback) {
        StreamError::Pushback
    } else {
        StreamError::Failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSHED_BACK: FirstEvent = FirstEvent::Error(StreamError::Pushback);
    const FAILED: FirstEvent = FirstEvent::Error(StreamError::Failed);

    #[test]
    fn what_streams_begin_with() {
        for (text, event) in [
            ("", FirstEvent::More),
            ("event: error\n", FirstEvent::More),
            ("data: {\"error\": {\"code\": 429}}\n", FirstEvent::More),
            (
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
                PUSHED_BACK,
            ),
            (
                "event: error\r\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"}}\r\n\r\n",
                PUSHED_BACK,
            ),
            (
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}\n\n",
                FAILED,
            ),
            ("event: error\ndata: out of order\n\n", FAILED),
            (
                "data: {\"error\": {\"message\": \"m\", \"code\": \"rate_limit_exceeded\"}}\n\n",
                PUSHED_BACK,
            ),
            (
                ": OPENROUTER PROCESSING\n\n: again\n\ndata:{\"error\":{\"code\":429}}\n\n",
                PUSHED_BACK,
            ),
            ("data: {\"error\": {\"code\": 502}}\n\n", FAILED),
            (
                "\u{feff}data: {\"type\": \"error\",\ndata: \"code\": \"529\"}\n\n",
                PUSHED_BACK,
            ),
            ("data: {\"type\": \"error\"}\n\ndata: {}\n\n", FAILED),
            (
                "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: error\ndata: {}\n\n",
                FirstEvent::Good,
            ),
            ("event: error\n\ndata: {}\n\n", FirstEvent::Good),
            (
                "data: {\"error\": null, \"choices\": []}\n\n",
                FirstEvent::Good,
            ),
            ("data: {\"error\": \"429\"}\n\n", FirstEvent::Good),
            ("data: [DONE]\n\n", FirstEvent::Good),
            ("data: {\"error\": {\"code\": 42\n\n", FirstEvent::Good),
        ] {
            assert_eq!(first_event(text.as_bytes()), event, "{text:?}");
        }
        let long = [&b"data: "[..], &[b'x'; MOST]].concat();
        assert_eq!(first_event(&long[..MOST - 1]), FirstEvent::More);
        assert_eq!(first_event(&long[..MOST]), FirstEvent::Good);
    }

    /// However it is cut, it means the same when it is whole; and no bytes make it panic.
    #[test]
    fn cut_anywhere() {
        let text = b"event: error\r\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\r\n\r\ndata: 1\r\n\r\n";
        for length in 0..text.len() {
            let found = first_event(&text[..length]);
            let whole = length >= text.len() - 11;
            assert_eq!(
                found,
                if whole { PUSHED_BACK } else { FirstEvent::More },
                "{length}"
            );
        }
        for byte in 0..=255 {
            let _ = first_event(&[b'd', b'a', b't', b'a', b':', byte, b'\n', b'\n']);
        }
    }

    #[test]
    fn which_answers_are_streams() {
        for (kind, is) in [
            ("text/event-stream", true),
            ("Text/Event-Stream ; charset=utf-8", true),
            ("text/event-streams", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_stream(kind.as_bytes()), is, "{kind}");
        }
    }
}
