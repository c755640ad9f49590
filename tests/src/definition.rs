//! A definition of the repository's that a test changes and builds.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{repository, thimble};

/// The text of a definition, and where what it names is.
pub struct Definition {
    name: String,
    text: String,
    library: PathBuf,
}

impl Definition {
    /// That of a file of the repository, which finds the rest in the repository.
    ///
    /// # Panics
    /// There is no such file.
    pub fn read(path: &str) -> Self {
        let file = repository().join(path);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        Self { name, text, library: repository().to_owned() }
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The same with other texts in the place of some.
    ///
    /// # Panics
    /// One of them is not in it.
    pub fn with(mut self, changes: &[(&str, &str)]) -> Self {
        for (from, to) in changes {
            assert!(self.text.contains(from), "{from}");
            self.text = self.text.replace(from, to);
        }
        self
    }

    /// The same without this text and all that is behind it.
    ///
    /// # Panics
    /// It is not in it.
    pub fn up_to(mut self, mark: &str) -> Self {
        let end = self.text.find(mark).unwrap_or_else(|| panic!("{mark}"));
        self.text.truncate(end);
        self
    }

    /// The same with more behind it.
    pub fn and(mut self, more: &str) -> Self {
        self.text.push_str(more);
        self
    }

    /// The same that finds images and configurations in another directory (below the repository, if it is no absolute path).
    pub fn library(mut self, directory: impl AsRef<Path>) -> Self {
        self.library = repository().join(directory);
        self
    }

    /// Builds it with more words for `thimble build`, and gives the directory of what came out: in `directory`, by the
    /// definition's name.
    ///
    /// # Panics
    /// It is refused.
    pub fn build<Word: AsRef<OsStr>>(self, directory: &Path, words: impl IntoIterator<Item = Word>) -> PathBuf {
        let config = directory.join(format!("{}.toml", self.name));
        // Several processes build the same: none finds half of it.
        let mut beside = NamedTempFile::new_in(directory).expect("a temporary file");
        beside.write_all(self.text.as_bytes()).expect("the definition can be written");
        beside.persist(&config).expect("the definition can be written");
        let out = directory.join(&self.name);
        let mut command = thimble();
        command.args(["build", "--quiet", "--library"]).arg(self.library).arg(&config).arg("--out").arg(&out);
        let built = command.args(words).output().expect("thimble starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        out
    }
}
