//! Where an update comes from: a file, a block device that holds it from its first byte on, standard input.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use thimble_store::{Envelope, Error};

/// An update that is to be read.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Its end is the update's end.
    File(File),
    /// It is larger than the update, which says itself how long it is.
    Device(File),
    /// It can be read once.
    Stream,
}

impl Source {
    /// Opens it; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self { kind: Kind::Stream });
        }
        let file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let kind = match (kind.is_block_device(), kind.is_file()) {
            (true, _) => Kind::Device(file),
            (_, true) => Kind::File(file),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file and no block device")),
        };
        Ok(Self { kind })
    }

    /// Whether it can be read more than once.
    pub fn again(&self) -> bool {
        !matches!(self.kind, Kind::Stream)
    }

    /// The update, from its start to its end.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn reader(&self) -> Result<Box<dyn Read + '_>, Error> {
        match &self.kind {
            Kind::Stream => Ok(Box::new(io::stdin().lock())),
            Kind::File(file) => {
                let mut file = file;
                file.rewind().map_err(Error::Source)?;
                Ok(Box::new(file))
            }
            Kind::Device(file) => whole(file),
        }
    }
}

/// Of a device: as many bytes as the release says.
fn whole(mut device: &File) -> Result<Box<dyn Read + '_>, Error> {
    device.rewind().map_err(Error::Source)?;
    let envelope = Envelope::read(device).map_err(|error| match error {
        Error::Refused(reason) => Error::Refused(format!(
            "{reason}: the device must hold thimble.update from its first byte on, without a file system around it"
        )),
        other => other,
    })?;
    device.rewind().map_err(Error::Source)?;
    let objects = envelope.release().objects();
    let length = objects.iter().fold(envelope.bytes().len() as u64, |sum, part| sum.saturating_add(part.size));
    Ok(Box::new(device.take(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_cannot_hold_an_update_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Source::open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(Source::open(&dir.path().join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(Source::open(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let path = dir.path().join("update");
        fs::write(&path, "PK\x03\x04").unwrap();
        let told = whole(&File::open(&path).unwrap()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told.contains("from its first byte on"), "{told}");
        fs::write(&path, "").unwrap();
        assert!(whole(&File::open(&path).unwrap()).is_err());
    }

    #[test]
    fn a_file_is_read_as_often_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("update");
        fs::write(&path, "content").unwrap();
        let source = Source::open(&path).unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            source.reader().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
    }
}
