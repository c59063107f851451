//! Bytes with bounds: little-endian numbers, blocks with their length in front, and frames cut from a stream.
//! What does not fit its bound is refused before memory is spent on it.
#![forbid(unsafe_code)]

/// Bytes that cannot be what they should be; says which rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Builds a frame or a part of one.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Writer {
        self.raw(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The length in 32 bits, then the bytes.
    pub(crate) fn block(&mut self, bytes: &[u8]) -> &mut Writer {
        self.u32(u32::try_from(bytes.len()).expect("blocks are bounded far below 4 GiB")).raw(bytes)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads what a [`Writer`] built, or garbage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("taken with this length"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn block(&mut self, bytes_max: usize) -> Result<&'a [u8], Malformed> {
        let count = self.u32()? as usize;
        if count > bytes_max {
            return Err(Malformed("a part of it is longer than allowed"));
        }
        self.take(count)
    }

    pub(crate) fn text(&mut self, bytes_max: usize) -> Result<String, Malformed> {
        let bytes = self.block(bytes_max)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a text in it is not UTF-8"))
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("there are bytes behind its end")) }
    }
}

/// `body` with its length in front, as it travels.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut writer = Writer { bytes: Vec::with_capacity(body.len() + LENGTH_BYTES) };
    writer.block(body);
    writer.into_bytes()
}

const LENGTH_BYTES: usize = 4;

/// Cuts a stream of bytes into frames. Holds at most one unfinished frame of at most the limit, and what came
/// behind it with the same read.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    read: usize,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame's body. A frame above `body_bytes_max` is refused as soon as its length is known.
    pub(crate) fn next(&mut self, body_bytes_max: usize) -> Result<Option<&[u8]>, Malformed> {
        let mut reader = Reader::new(&self.bytes[self.read..]);
        let Ok(count) = reader.u32() else { return Ok(None) };
        let count = count as usize;
        if count > body_bytes_max {
            return Err(Malformed("it is longer than allowed"));
        }
        if reader.take(count).is_err() {
            return Ok(None);
        }
        let start = self.read + LENGTH_BYTES;
        self.read = start + count;
        Ok(Some(&self.bytes[start..start + count]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cutting() {
        let bodies: Vec<Vec<u8>> = (0..20_u8).map(|i| vec![i; usize::from(i) * 7]).collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        for step in 1..40 {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(step) {
                frames.push(chunk);
                while let Some(body) = frames.next(200).unwrap() {
                    seen.push(body.to_vec());
                }
            }
            assert_eq!(seen, bodies);
        }
    }

    #[test]
    fn a_frame_too_long_is_refused_by_its_length_alone() {
        let mut frames = Frames::default();
        frames.push(&101_u32.to_le_bytes());
        assert!(frames.next(100).is_err());
        assert_eq!(frames.next(101), Ok(None));
    }

    #[test]
    fn numbers_and_blocks_come_back() {
        let mut writer = Writer::default();
        writer.u8(1).u16(2).u32(3).u64(4).block(b"five").raw(b"six");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32(), reader.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert!(reader.clone().block(3).is_err());
        assert_eq!(reader.text(4).as_deref(), Ok("five"));
        assert!(reader.end().is_err());
        assert_eq!(reader.take(3), Ok(b"six".as_slice()));
        assert_eq!(reader.end(), Ok(()));
        assert!(reader.u8().is_err());
    }
}
