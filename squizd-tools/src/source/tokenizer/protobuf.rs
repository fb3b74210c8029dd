//! The protobuf wire format, as far as `tokenizer.model` needs it: a checked
//! iterator over the fields of one message.

use squizd::{Error, Result};

/// One field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: bytes, a string or a message.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// Fields `(number, value)` of a message, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    /// Byte offset of `rest` in the file, for messages.
    at: usize,
}

impl<'a> Fields<'a> {
    /// Of the message that starts at byte `at` of the file.
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self { rest: message, at }
    }

    /// The next field, with the file offset of its contents.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>, usize)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|&n| n > 0 && n < 1 << 29);
        let number = number.ok_or_else(|| error(start, format_args!("field tag {tag} is out of range")))?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = self.varint()?;
                let at = self.at;
                let bytes = usize::try_from(len).ok().and_then(|len| self.take(len));
                let bytes = bytes.ok_or_else(|| {
                    error(
                        at,
                        format_args!("field {number} has {len} bytes, but {} are left", self.rest.len()),
                    )
                })?;
                return Ok(Some((number, Field::Bytes(bytes), at)));
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(error(start, format_args!("field {number} has wire type {other}"))),
        };
        Ok(Some((number, field, start)))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        self.at += len;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.at;
        self.take(N)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| error(at, format_args!("the file ends inside a number")))
    }

    /// Seven bits a byte, lowest first; at most ten bytes.
    fn varint(&mut self) -> Result<u64> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(error(start, format_args!("a number has more than 64 bits")))
    }
}

/// An error of `tokenizer.model` at a byte.
pub(super) fn error(at: usize, what: std::fmt::Arguments<'_>) -> Error {
    Error::refused("tokenizer-protobuf", format!("tokenizer.model, byte {at}: {what}")).at(at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> std::result::Result<Vec<(u32, Field<'_>)>, String> {
        let mut fields = Fields::new(bytes, 100);
        let mut out = Vec::new();
        while let Some((n, f, _)) = fields.next().map_err(|e| e.to_string())? {
            out.push((n, f));
        }
        Ok(out)
    }

    #[test]
    fn reads_every_wire_type() {
        let bytes =
            [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            all(&bytes).unwrap(),
            [
                (1, Field::Varint(150)),
                (2, Field::Bytes(b"hi")),
                (3, Field::Fixed32(1f32.to_bits())),
                (4, Field::Fixed64(1)),
            ]
        );
        assert_eq!(
            all(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]).unwrap(),
            [(1, Field::Varint(u64::MAX))]
        );
    }

    #[test]
    fn names_the_byte_of_every_fault() {
        for (bytes, message) in [
            (&[0x08][..], "byte 101: the file ends inside a number"),
            (&[0x12, 5, 1], "byte 102: field 2 has 5 bytes, but 1 are left"),
            (
                &[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                "field 2 has 18446744073709551615 bytes",
            ),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
                "byte 101: a number has more than 64 bits",
            ),
            (&[0x0b], "byte 100: field 1 has wire type 3"),
            (&[0x00], "byte 100: field tag 0 is out of range"),
            (&[0x1d, 0], "byte 101: the file ends inside a number"),
        ] {
            let found = all(bytes).unwrap_err();
            assert!(found.contains(message), "{found}");
        }
    }
}
