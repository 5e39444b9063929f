//! `google.protobuf.Struct` → JSON value: what Envoy hands over when the configuration is written as YAML.
//!
//! Envoy (1.40) passes a `StringValue` as its text and a `Struct` in its binary form. Wire format and message:
//! protobuf's `struct.proto`.

use serde_json::{Map, Number, Value};

/// No value may nest deeper.
const MAX_DEPTH: usize = 64;

/// Decodes a whole message; `None`: these bytes are none.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Value> {
    structure(bytes, 0)
}

/// `message Struct { map<string, Value> fields = 1; }`
fn structure(mut bytes: &[u8], depth: usize) -> Option<Value> {
    let mut fields = Map::new();
    while !bytes.is_empty() {
        let Field::Bytes(1, mut entry) = field(&mut bytes)? else {
            return None;
        };
        let (mut name, mut value) = (String::new(), Value::Null);
        while !entry.is_empty() {
            match field(&mut entry)? {
                Field::Bytes(1, text) => name = String::from_utf8(text.to_vec()).ok()?,
                Field::Bytes(2, message) => value = one(message, depth.checked_add(1)?)?,
                Field::Bytes(..) | Field::Varint(..) | Field::Double(..) => return None,
            }
        }
        fields.insert(name, value);
    }
    Some(Value::Object(fields))
}

/// `message Value { oneof kind { null = 1, number = 2, string = 3, bool = 4, struct = 5, list = 6 } }`
fn one(mut bytes: &[u8], depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut value = Value::Null;
    while !bytes.is_empty() {
        value = match field(&mut bytes)? {
            Field::Varint(1, _) => Value::Null,
            Field::Double(2, number) => Value::Number(Number::from_f64(number)?),
            Field::Bytes(3, text) => Value::String(String::from_utf8(text.to_vec()).ok()?),
            Field::Varint(4, on) => Value::Bool(on != 0),
            Field::Bytes(5, message) => structure(message, depth)?,
            Field::Bytes(6, message) => list(message, depth)?,
            Field::Bytes(..) | Field::Varint(..) | Field::Double(..) => return None,
        };
    }
    Some(value)
}

/// `message ListValue { repeated Value values = 1; }`
fn list(mut bytes: &[u8], depth: usize) -> Option<Value> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let Field::Bytes(1, message) = field(&mut bytes)? else {
            return None;
        };
        values.push(one(message, depth.checked_add(1)?)?);
    }
    Some(Value::Array(values))
}

/// One field: its number and its content.
enum Field<'a> {
    Varint(u64, u64),
    Double(u64, f64),
    Bytes(u64, &'a [u8]),
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    let tag = varint(bytes)?;
    match tag & 7 {
        0 => Some(Field::Varint(tag >> 3, varint(bytes)?)),
        1 => {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Some(Field::Double(tag >> 3, f64::from_le_bytes(*number)))
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (content, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(Field::Bytes(tag >> 3, content))
        }
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_envoy_sends() {
        // {"role": "bridge", "n": 1.5, "on": true, "list": [null, {}]}, map entries in the order they were written.
        let bytes = b"\x0a\x10\x0a\x04role\x12\x08\x1a\x06bridge\x0a\x0e\x0a\x01n\x12\x09\x11\0\0\0\0\0\0\xf8\x3f\
            \x0a\x08\x0a\x02on\x12\x02\x20\x01\x0a\x12\x0a\x04list\x12\x0a\x32\x08\x0a\x02\x08\0\x0a\x02\x2a\0";
        let expected =
            serde_json::json!({"role": "bridge", "n": 1.5, "on": true, "list": [null, {}]});
        assert_eq!(decode(bytes), Some(expected));
        for end in 1..bytes.len() {
            assert!(
                decode(&bytes[..end]).is_none_or(|value| value.as_object().unwrap().len() < 4),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn json_text_is_none() {
        assert_eq!(decode(b"{\"role\": \"bridge\"}"), None);
        assert_eq!(decode(b"\n{\"role\": \"bridge\"}\n"), None);
        assert_eq!(decode(b""), Some(serde_json::json!({})));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn deep_nesting_ends(depth in 0_usize..200) {
            let mut message = Vec::new();
            for _ in 0..depth {
                let inner = message;
                let mut outer = vec![0x0a];
                let mut length = inner.len();
                while length > 127 {
                    outer.push((length & 0x7f) as u8 | 0x80);
                    length >>= 7;
                }
                outer.push(length as u8);
                outer.extend(inner);
                message = outer;
            }
            let _ = list(&message, 0);
        }
    }
}
