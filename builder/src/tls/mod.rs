//! The certificates of a node's API: an authority of the appliance's own, the node's certificate, and those of its clients.
//!
//! They are kept in one directory, for their owner only. What is missing there is made, what is there is used: the next build
//! finds the same, and whoever has an authority already puts `ca.pem`, `server.pem` and `server.key` there.
//!
//! ```text
//! ca.pem, ca.key            the authority (ca.key may be missing: then nothing is made)
//! server.pem, server.key    the node's; both are packed into the appliance
//! clients/NAME/             for a client to take away: ca.pem, cert.pem, key.pem
//! ```

mod issue;
mod loghost;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair};
use thimble_spec::api::identity::{Identity, Role};
use thimble_spec::appliance::Appliance;
use thimble_spec::definition::Tls;

use crate::build::definition::Inputs;
use crate::error::{Error, Result};
use crate::files::{self, PUBLIC, write_as};

pub use loghost::LogKeys;

/// The client that the first build makes.
const FIRST: &str = "admin";
/// Beginning of the first line of a certificate of the node's that we made: another name in it, and it is made anew.
const MADE: &str = "thimble: for ";
/// For its owner only.
const SECRET: u32 = 0o600;

/// What a node shows its clients, and who may have signed theirs: all PEM.
#[derive(Clone)]
pub struct Keys {
    /// The authority's certificate.
    pub ca: String,
    /// The node's.
    pub certificate: String,
    /// The node's private key.
    pub key: String,
}

/// The directory with all of it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    name: String,
    names: Vec<String>,
}

impl Store {
    /// That of a definition, if it has `[api]`.
    pub fn of(inputs: &Inputs, config: &Path) -> Option<Self> {
        let tls = inputs.build.tls.as_ref()?;
        Some(Self {
            dir: directory(tls, config),
            name: inputs.appliance.name.clone(),
            names: names(&inputs.appliance, tls),
        })
    }

    /// What the node needs. What is missing is made, and a first client with it.
    ///
    /// # Errors
    /// Something is there in part, or cannot be read or written.
    pub fn keys(&self) -> Result<Keys> {
        self.make_dir(&self.dir)?;
        let ca = self.authority()?;
        let certificate = self.certificate(&ca)?;
        let key = self.read("server.key")?;
        if self.has("ca.key") {
            let first = self.client_dir(FIRST);
            if first.exists() {
                self.same_authority(&first, &ca)?;
            } else {
                self.client(&Identity::new(Role::Admin, FIRST).map_err(usage)?, None)?;
            }
        }
        Ok(Keys { ca, certificate, key })
    }

    /// A certificate for a client, which is good for so many days; its directory is given back.
    ///
    /// # Errors
    /// There is one of that name already; there is no key of the authority's here; it cannot be written.
    pub fn client(&self, identity: &Identity, days: Option<u32>) -> Result<PathBuf> {
        self.make_dir(&self.dir)?;
        let ca = self.authority()?;
        let dir = self.client_dir(identity.name());
        if dir.exists() {
            let shown = dir.display();
            return Err(Error::Usage(format!(
                "{shown}: that client has a certificate already: give it away, or remove it"
            )));
        }
        if !self.has("ca.key") {
            let path = self.dir.join("ca.key");
            return Err(Error::Usage(format!(
                "{} is not here, and only it signs certificates: let its owner sign one with the URI {identity} as its \
                 subject alternative name",
                path.display()
            )));
        }
        let issuer = self.issuer(&ca)?;
        let (certificate, key) = issue::client(&issuer, identity, days).map_err(|error| self.failed(&error))?;
        // Whole or not at all: under its name when all is in it.
        let clients = files::parent(&dir);
        self.make_dir(clients)?;
        let beside = files::temp_dir_in(clients, ".new-")?;
        for (name, text, mode) in
            [("ca.pem", &ca, PUBLIC), ("cert.pem", &certificate, PUBLIC), ("key.pem", &key, SECRET)]
        {
            write_as(&beside.path().join(name), text.as_bytes(), mode)?;
        }
        let beside = beside.keep();
        fs::rename(&beside, &dir).map_err(Error::io("rename", &beside))?;
        files::sync_dir(clients)?;
        Ok(dir)
    }

    fn authority(&self) -> Result<String> {
        if !self.has("ca.pem") {
            if self.has("server.pem") && !self.has("ca.key") {
                return Err(self.missing("ca.pem"));
            }
            let key = self.key("ca.key")?;
            let text = issue::authority(&self.name, &key).map_err(|error| self.failed(&error))?;
            files::write(&self.dir.join("ca.pem"), text.as_bytes())?;
        }
        self.certificate_file("ca.pem")
    }

    /// The node's, with the names that it has now.
    fn certificate(&self, ca: &str) -> Result<String> {
        // Of another authority, it is another certificate.
        let authority = &files::sha256(ca.as_bytes())[..16];
        let made = format!("{MADE}{}, by {authority}\n", self.names.join(" "));
        if self.has("server.pem") {
            let text = self.certificate_file("server.pem")?;
            if !text.starts_with(MADE) || text.starts_with(&made) {
                return if self.has("server.key") { Ok(text) } else { Err(self.missing("server.key")) };
            }
        }
        if !self.has("ca.key") {
            return Err(self.missing("server.pem"));
        }
        let issuer = self.issuer(ca)?;
        let key = self.key("server.key")?;
        let text = issue::server(&issuer, &self.name, &self.names, &key).map_err(|error| self.failed(&error))?;
        let text = made + &text;
        files::write(&self.dir.join("server.pem"), text.as_bytes())?;
        Ok(text)
    }

    fn issuer(&self, ca: &str) -> Result<Issuer<'static, KeyPair>> {
        let key = self.key("ca.key")?;
        Issuer::from_ca_cert_pem(ca, key).map_err(|error| self.failed(&error))
    }

    /// A key pair: the one that is there, or a new one.
    fn key(&self, name: &str) -> Result<KeyPair> {
        let path = self.dir.join(name);
        if !self.has(name) {
            let key = KeyPair::generate().map_err(|error| self.failed(&error))?;
            write_as(&path, key.serialize_pem().as_bytes(), SECRET)?;
            return Ok(key);
        }
        let wrong = |error| Error::Usage(format!("{}: that is no private key in PEM: {error}", path.display()));
        KeyPair::from_pem(&self.read(name)?).map_err(wrong)
    }

    fn certificate_file(&self, name: &str) -> Result<String> {
        let text = self.read(name)?;
        if !is_certificate(&text) {
            let path = self.dir.join(name);
            return Err(Error::Usage(format!("{} holds no certificate in PEM format", path.display())));
        }
        Ok(text)
    }

    fn same_authority(&self, client: &Path, ca: &str) -> Result<()> {
        if files::read_text(&client.join("ca.pem"))? == ca {
            return Ok(());
        }
        let shown = client.display();
        Err(Error::Usage(format!("{shown} is of another authority than ca.pem: remove it, and build again")))
    }

    fn client_dir(&self, name: &str) -> PathBuf {
        self.dir.join("clients").join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn read(&self, name: &str) -> Result<String> {
        files::read_text(&self.dir.join(name))
    }

    /// For its owner only, and no business of a version control's.
    fn make_dir(&self, dir: &Path) -> Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).map_err(Error::io("make the directory", dir))?;
        let ignore = self.dir.join(".gitignore");
        if ignore.exists() { Ok(()) } else { files::write(&ignore, b"*\n") }
    }

    fn missing(&self, name: &str) -> Error {
        let path = self.dir.join(name);
        Error::Usage(format!(
            "{} is missing, and cannot be made without {}: put it there, or remove all of them for new ones",
            path.display(),
            self.dir.join("ca.key").display()
        ))
    }

    fn failed(&self, error: &rcgen::Error) -> Error {
        Error::environment(format!("the certificates in {} cannot be made: {error}", self.dir.display()))
    }
}

fn is_certificate(text: &str) -> bool {
    text.contains("-----BEGIN CERTIFICATE-----")
}

fn usage(error: thimble_spec::api::identity::IdentityError) -> Error {
    Error::Usage(error.to_string())
}

/// Where the definition says, or beside it.
fn directory(tls: &Tls, config: &Path) -> PathBuf {
    match &tls.keys {
        Some(keys) => files::parent(config).join(keys),
        None => config.with_extension("tls"),
    }
}

/// What the node is called and where the definition has it, for browsers: `thimblectl` asks for another name.
fn names(appliance: &Appliance, tls: &Tls) -> Vec<String> {
    let said = appliance.host.api.and_then(|api| api.address).map(|address| address.to_string());
    let mut names = vec![appliance.name.clone(), thimble_spec::api::identity::NODE_NAME.to_owned()];
    for name in said.iter().chain(&tls.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store(dir: &Path, names: &[&str]) -> Store {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Store { dir: dir.join("demo.tls"), name: "demo".to_owned(), names }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_once_is_found_again_and_is_secret() {
        let dir = tempfile::tempdir().unwrap();
        let demo = store(dir.path(), &["demo", "10.1.1.2"]);
        let first = demo.keys().unwrap();
        let second = demo.keys().unwrap();
        assert_eq!((&first.ca, &first.certificate, &first.key), (&second.ca, &second.certificate, &second.key));
        assert_eq!(mode(&demo.dir), 0o700);
        for key in ["ca.key", "server.key", "clients/admin/key.pem"] {
            assert_eq!(mode(&demo.dir.join(key)), 0o600, "{key}");
        }
        // Another name is another certificate, with the same key.
        let renamed = store(dir.path(), &["demo", "10.1.1.3"]).keys().unwrap();
        assert!(renamed.certificate != first.certificate && renamed.key == first.key && renamed.ca == first.ca);

        let alice = Identity::new(Role::Read, "alice").unwrap();
        let client = demo.client(&alice, Some(30)).unwrap();
        assert_eq!(files::read_text(&client.join("ca.pem")).unwrap(), first.ca);
        assert!(demo.client(&alice, None).unwrap_err().to_string().contains("has a certificate already"));
        assert_eq!(fs::read_dir(demo.dir.join("clients")).unwrap().count(), 2, "nothing half-made is left");
    }

    #[test]
    fn ones_own_are_taken_and_what_is_missing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let demo = store(dir.path(), &["demo"]);
        demo.keys().unwrap();
        let certificate = files::read_text(&demo.dir.join("server.pem")).unwrap();
        let own = certificate.split_once('\n').unwrap().1;
        files::write(&demo.dir.join("server.pem"), own.as_bytes()).unwrap();
        fs::remove_file(demo.dir.join("ca.key")).unwrap();
        assert_eq!(store(dir.path(), &["other"]).keys().unwrap().certificate, own);
        let alice = Identity::new(Role::Read, "alice").unwrap();
        let told = demo.client(&alice, None).unwrap_err().to_string();
        assert!(told.contains("thimble:read:alice"), "{told}");
        fs::remove_file(demo.dir.join("server.key")).unwrap();
        assert!(demo.keys().err().unwrap().to_string().contains("server.key is missing"));
    }

    #[test]
    fn a_client_of_another_authority_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let demo = store(dir.path(), &["demo"]);
        demo.keys().unwrap();
        for name in ["ca.pem", "ca.key"] {
            fs::remove_file(demo.dir.join(name)).unwrap();
        }
        assert!(demo.keys().err().unwrap().to_string().contains("ca.pem is missing"));
        fs::remove_file(demo.dir.join("server.pem")).unwrap();
        assert!(demo.keys().err().unwrap().to_string().contains("is of another authority"));
    }
}
