//! A part of a file that reads, writes and seeks as if it were a whole one: a partition of an image.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// `length` bytes of a file, from `start` on.
#[derive(Debug)]
pub struct Window<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a> Window<'a> {
    /// The part of `file` from byte `start` to byte `start + length`.
    pub fn new(file: &'a File, start: u64, length: u64) -> Self {
        Self { file, start, length, position: 0 }
    }

    /// Puts the file's own position where this window stands, and says how many of `wanted` bytes are left in it.
    fn enter(&mut self, wanted: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.start + self.position))?;
        let left = self.length - self.position;
        Ok(usize::try_from(left).unwrap_or(usize::MAX).min(wanted))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.enter(buffer.len())?;
        let count = self.file.read(&mut buffer[..room])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = self.enter(buffer.len())?;
        let count = self.file.write(&buffer[..room])?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
        };
        match position {
            Some(position) if position <= self.length => {
                self.position = position;
                Ok(position)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a place outside the partition")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_where_it_says() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"0123456789").unwrap();
        let mut window = Window::new(&file, 2, 4);
        let mut text = String::new();
        window.read_to_string(&mut text).unwrap();
        assert_eq!(text, "2345");
        assert_eq!(window.seek(SeekFrom::End(-1)).unwrap(), 3);
        assert_eq!(window.write(b"xyz").unwrap(), 1);
        assert!(window.seek(SeekFrom::Start(5)).is_err());
        let mut all = String::new();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        (&file).read_to_string(&mut all).unwrap();
        assert_eq!(all, "01234x6789");
    }
}
