//! gRPC frames ⇄ raw bytes: what the bridge does to each direction of the pipe.
//!
//! A frame is one byte 0 (not compressed), four bytes of length, big endian, then the payload.

/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// No frame may be longer, in bytes: the largest one is a sync of 100,000 accounts.
pub const MAX_FRAME: u32 = 64 << 20;

/// Not a stream of gRPC frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame;

/// Strips the frames of one direction, however they are cut. Holds no payload.
#[derive(Debug, Default)]
pub struct Deframer {
    header: [u8; HEADER],
    have: usize,
    payload_left: usize,
}

impl Deframer {
    /// Appends the payload bytes in `bytes` to `out`.
    ///
    /// # Errors
    /// [`BadFrame`] for a compressed frame or one longer than [`MAX_FRAME`].
    pub fn strip(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BadFrame> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let (payload, behind) = bytes
                    .split_at_checked(self.payload_left)
                    .unwrap_or((bytes, &[]));
                out.extend_from_slice(payload);
                self.payload_left = self.payload_left.saturating_sub(payload.len());
                bytes = behind;
                continue;
            }
            if let Some(byte) = self.header.get_mut(self.have) {
                *byte = *first;
            }
            self.have = self.have.saturating_add(1);
            bytes = rest;
            if self.have == HEADER {
                let [flag, length @ ..] = self.header;
                let length = u32::from_be_bytes(length);
                if flag != 0 || length > MAX_FRAME {
                    return Err(BadFrame);
                }
                self.have = 0;
                self.payload_left = length as usize;
            }
        }
        Ok(())
    }
}

/// The header of a frame of `length` bytes; `None`: too long for one.
#[must_use]
pub fn frame_header(length: usize) -> Option<[u8; HEADER]> {
    let [a, b, c, d] = u32::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_FRAME)?
        .to_be_bytes();
    Some([0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Framed and cut anywhere, the bytes come out as they went in.
        #[test]
        fn strips_what_was_framed(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6),
            cuts in proptest::collection::vec(1_usize..9, 0..64),
        ) {
            let mut wire = Vec::new();
            for message in &messages {
                wire.extend(frame_header(message.len()).unwrap());
                wire.extend_from_slice(message);
            }
            let (mut deframer, mut out, mut left) = (Deframer::default(), Vec::new(), wire.as_slice());
            for cut in cuts.into_iter().chain(std::iter::repeat(7)) {
                if left.is_empty() {
                    break;
                }
                let (now, later) = left.split_at(cut.min(left.len()));
                deframer.strip(now, &mut out).unwrap();
                left = later;
            }
            prop_assert_eq!(out, messages.concat());
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let _ = Deframer::default().strip(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len());
        }
    }

    #[test]
    fn refuses_other_frames() {
        assert_eq!(
            Deframer::default().strip(&[1, 0, 0, 0, 0], &mut Vec::new()),
            Err(BadFrame)
        );
        assert_eq!(
            Deframer::default().strip(&[0, 255, 0, 0, 0], &mut Vec::new()),
            Err(BadFrame)
        );
        assert_eq!(frame_header(MAX_FRAME as usize + 1), None);
    }
}
