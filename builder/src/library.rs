//! Where kernel fragments, hardware sets and recipes lie.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A directory with `configs/` and `images/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    root: PathBuf,
}

impl Library {
    /// Finds it: `given`, else the nearest directory above the definition that has both `configs/` and `images/`, else
    /// `$THIMBLE_LIBRARY`, else the tree that this program was compiled from.
    ///
    /// # Errors
    /// There is none.
    pub fn find(given: Option<&Path>, definition: &Path) -> Result<Self> {
        let is_library = |dir: &Path| dir.join("configs").is_dir() && dir.join("images").is_dir();
        if let Some(given) = given {
            // Named by the user: a part of it that is missing shows when something asks for it.
            return if given.is_dir() {
                Ok(Self { root: given.to_owned() })
            } else {
                Err(Error::Usage(format!("--library {}: there is no such directory", given.display())))
            };
        }
        let definition = std::path::absolute(definition).map_err(Error::io("find", definition))?;
        let above = definition.ancestors().skip(1).find(|dir| is_library(dir)).map(Path::to_owned);
        let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned);
        above
            .or_else(|| env::var_os("THIMBLE_LIBRARY").filter(|dir| !dir.is_empty()).map(PathBuf::from))
            .or_else(compiled)
            .filter(|root| root.join("configs").is_dir())
            .map(|root| Self { root })
            .ok_or_else(|| {
                Error::Usage(
                    "no directory with configs/ and images/ lies above the definition: name it with --library".into(),
                )
            })
    }

    /// A fragment of a kernel's configuration.
    pub fn fragment(&self, name: &str) -> PathBuf {
        self.root.join("configs/kernel").join(format!("{name}.config"))
    }

    /// A hardware set.
    pub fn hardware(&self, name: &str) -> PathBuf {
        self.root.join("configs/hardware").join(format!("{name}.toml"))
    }

    /// A host feature.
    pub fn host(&self, name: &str) -> PathBuf {
        self.root.join("configs/host").join(format!("{name}.toml"))
    }

    /// The directory of an image's recipe.
    pub fn image(&self, name: &str) -> PathBuf {
        self.root.join("images").join(name)
    }

    /// Names of what there is beside `path` with the same ending, for a message.
    pub fn siblings(path: &Path) -> Vec<String> {
        let extension = path.extension();
        let entries = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|entry| entry.extension() == extension)
            .filter_map(|entry| Some(entry.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_library_above_the_definition_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for part in ["configs/sites", "images"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        let library = Library::find(None, &root.join("configs/sites/a.toml")).unwrap();
        assert_eq!(library.image("web"), root.join("images/web"));
        assert_eq!(library.fragment("guest/base"), root.join("configs/kernel/guest/base.config"));
        assert!(Library::find(Some(&root.join("nowhere")), &root).is_err());
    }
}
