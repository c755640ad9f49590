//! Packages of the distribution, from the machine's own sources.
//!
//! apt works here in a root of its own below the cache: its own lists, its own archive, an empty dpkg status, and from
//! the machine nothing but sources, keyrings and configuration. No root is needed, nothing is installed, nothing on the
//! machine changes. That a package is what its signer published is apt's to check; [`Package::sha256`] is what apt says,
//! or, where a [`Lock`] pins it, what was said when it was locked. Source packages have lists of their own, which are fetched
//! when one is asked for: [`source`].

pub mod source;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::lock::Lock;
use crate::tool::Tool;

/// Lists older than this are fetched again.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The directory of the root with the configuration that names sources.
const SOURCE_PARTS: &str = "sources.d";

/// The version of a package that apt would install.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Its name, with `src:` before that of a source package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its section, without the archive's area.
    pub section: String,
    /// What it needs: alternatives, each a name.
    pub depends: Vec<Vec<String>>,
    /// SHA-256 of the package file; of a source package, of its description.
    pub sha256: String,
    /// Size of the package file in bytes; of a source package, of all its files.
    pub size: u64,
}

impl Package {
    /// `NAME=VERSION`, as apt reads it.
    pub fn exact(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

/// Where packages are looked up.
#[derive(Clone, Debug, Default)]
pub enum Pins {
    /// In the sources' lists.
    #[default]
    None,
    /// In a lock, and what it does not have in the lists.
    Prefer(Lock),
    /// In a lock and nowhere else.
    Only(Lock),
}

impl Pins {
    /// What a build takes: a lock if there is one, and then nothing else.
    pub fn of(lock: Option<&Lock>) -> Self {
        lock.map_or(Self::None, |lock| Self::Only(lock.clone()))
    }

    fn get(&self, name: &str) -> Option<&Package> {
        match self {
            Self::None => None,
            Self::Prefer(lock) | Self::Only(lock) => lock.packages.get(name).map(|pinned| &pinned.package),
        }
    }
}

/// Lists of packages. Everything of theirs is in files of the root that begin with `prefix`.
#[derive(Debug)]
struct Lists {
    prefix: &'static str,
    title: &'static str,
    updated: Cell<bool>,
}

/// apt in a root of its own.
#[derive(Debug)]
pub struct Apt<'a> {
    context: &'a Context,
    root: PathBuf,
    pins: Pins,
    known: RefCell<BTreeMap<String, Option<Package>>>,
    binary: Lists,
    source: Lists,
}

impl<'a> Apt<'a> {
    /// Prepares the root, and fetches the lists if there are none or they are old; where a lock has all answers, not before
    /// a package has to be fetched.
    ///
    /// # Errors
    /// There are no lists and none can be fetched.
    pub fn open(context: &'a Context, pins: Pins) -> Result<Self> {
        let root = context.cache.root().join("apt");
        for dir in ["lists/partial", "source-lists/partial", "archives/partial", "dpkg", SOURCE_PARTS] {
            files::make_dir(&root.join(dir))?;
        }
        let status = root.join("dpkg/status");
        if !status.exists() {
            files::write(&status, b"")?;
        }
        let lists = |prefix, title| Lists { prefix, title, updated: Cell::new(false) };
        let (binary, source) = (lists("", "package lists"), lists("source-", "lists of source packages"));
        let apt = Self { context, root, pins, known: RefCell::default(), binary, source };
        if !matches!(apt.pins, Pins::Only(_)) {
            apt.freshen(&apt.binary)?;
        }
        Ok(apt)
    }

    /// Fetches the lists, however young they are; old ones do if that fails.
    ///
    /// # Errors
    /// The user interrupts.
    pub fn refresh(&self) -> Result<()> {
        // Those of source packages are there only if somebody has asked for one.
        let stale = |lists: &&Lists| !lists.updated.get() && (lists.prefix.is_empty() || self.stamp(lists).exists());
        [&self.binary, &self.source].into_iter().filter(stale).try_for_each(|lists| self.update_or_warn(lists))
    }

    /// The lists that have a name.
    fn lists(&self, name: &str) -> &Lists {
        if source::bare(name).is_some() { &self.source } else { &self.binary }
    }

    /// Fetches the lists if there are none or they are old.
    fn freshen(&self, lists: &Lists) -> Result<()> {
        let age = fs::metadata(self.stamp(lists))
            .and_then(|data| data.modified())
            .ok()
            .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        match age {
            Some(age) if age <= LISTS_MAX_AGE => Ok(()),
            Some(_) => self.update_or_warn(lists),
            None => self.update(lists),
        }
    }

    /// Packages by name; a name that is not found makes the lists be fetched again, once.
    ///
    /// # Errors
    /// A package that no source has.
    pub fn find(&self, names: &[&str]) -> Result<Vec<Package>> {
        self.look_up(names)?;
        let missing = |apt: &Self| {
            let known = apt.known.borrow();
            names.iter().find(|name| !matches!(known.get(**name), Some(Some(_)))).map(|name| (*name).to_owned())
        };
        if let (Some(name), Pins::Only(_)) = (missing(self), &self.pins) {
            return Err(Error::Environment(format!(
                "thimble.lock does not have the package {name}, which this build needs: run `thimble lock CONFIG` to add it"
            )));
        }
        if let Some(name) = missing(self)
            && !self.lists(&name).updated.get()
        {
            self.update_or_warn(self.lists(&name))?;
            self.look_up(names)?;
        }
        if let Some(name) = missing(self) {
            let (kind, name) = source::bare(&name).map_or(("package", name.as_str()), |name| ("source package", name));
            return Err(Error::Environment(format!(
                "the {kind} {name} is in none of this machine's package sources: check its name, or the sources in \
                 /etc/apt"
            )));
        }
        let known = self.known.borrow();
        Ok(names.iter().filter_map(|name| known.get(*name)?.clone()).collect())
    }

    /// Packages by name, as far as the sources have them.
    ///
    /// # Errors
    /// apt fails.
    pub fn find_some(&self, names: &[&str]) -> Result<Vec<Package>> {
        self.look_up(names)?;
        let known = self.known.borrow();
        Ok(names.iter().filter_map(|name| known.get(*name)?.clone()).collect())
    }

    /// The files of a package.
    ///
    /// # Errors
    /// It cannot be fetched or unpacked.
    pub fn unpacked(&self, package: &Package) -> Result<PathBuf> {
        let entry = self.context.cache.dir_for("packages", &package.sha256, |tmp| self.unpack_into(package, tmp))?;
        Ok(entry.path)
    }

    /// Fetches a package and unpacks it into a directory; a source package with the distribution's patches, into one of it.
    ///
    /// # Errors
    /// It cannot be fetched or unpacked.
    pub fn unpack_into(&self, package: &Package, dir: &Path) -> Result<()> {
        let megabytes = package.size as f64 / 1e6;
        let step = self.context.progress.step(format!("package {} {}", package.name, package.version));
        step.message(&format!("fetching {megabytes:.1} MB"));
        let download = files::temp_dir_in(&self.context.cache.temp_dir(), "package-")?;
        self.download(package, download.path())?;
        let fetched = files::list(download.path())?;
        // A source package is several files, of which its description has the hashes.
        let is_source = source::bare(&package.name).is_some();
        let is_it = |path: &&PathBuf| !is_source || path.extension().is_some_and(|extension| extension == "dsc");
        let file = fetched.iter().find(is_it).ok_or_else(|| {
            Error::Environment(format!("apt-get fetched nothing for {}: run it again", package.exact()))
        })?;
        let sha256 = files::sha256_of(file)?;
        if sha256 != package.sha256 {
            let exact = package.exact();
            let (who, advice) = if self.is_pinned(package) {
                (
                    "thimble.lock",
                    "the sources have other content under the same version: do not use it before you know why",
                )
            } else {
                ("apt's list", "the package source is inconsistent, try again later")
            };
            let wanted = &package.sha256;
            return Err(Error::Environment(format!("{exact} has the hash {sha256}, {who} says {wanted}: {advice}")));
        }
        step.message("unpacking");
        if is_source {
            // The signature that counts is the one of the lists, which apt has checked.
            let tool = Tool::new("dpkg-source").args(["--no-check", "--extract"]).arg(file).arg(dir.join(source::TREE));
            tool.run(self.context)?;
        } else {
            Tool::new("dpkg-deb").arg("-x").arg(file).arg(dir).run(self.context)?;
        }
        step.done();
        Ok(())
    }

    /// Fetches a package's file. A pinned version may be one that the lists at hand do not know yet, or no longer.
    fn download(&self, package: &Package, into: &Path) -> Result<()> {
        let lists = self.lists(&package.name);
        self.freshen(lists)?;
        let fetch = || {
            let tool = self.tool(lists, "apt-get").dir(into);
            let tool = match source::bare(&package.name) {
                Some(name) => {
                    tool.args(["source", "--download-only", "--only-source"]).arg(format!("{name}={}", package.version))
                }
                None => tool.arg("download").arg(package.exact()),
            };
            tool.run(self.context)
        };
        let first = fetch();
        if first.is_ok() || matches!(first, Err(Error::Interrupted)) {
            return first;
        }
        if !self.is_pinned(package) {
            return first.map_err(|error| self.outdated(lists, error));
        }
        let again = if lists.updated.get() { first } else { self.update_or_warn(lists).and_then(|()| fetch()) };
        again.map_err(|error| match error {
            Error::Tool { said, .. }
                if ["not found", "Unable to locate", "Unable to find"].iter().any(|words| said.contains(words)) =>
            {
                Error::environment(format!(
                    "thimble.lock pins {}, which this machine's package sources do not have (any more), nor does the cache: \
                     add a source that keeps old versions, or run `thimble lock --update CONFIG`",
                    package.exact()
                ))
            }
            other => other,
        })
    }

    /// Lists that name a file which is gone are out of date, however young they are: the next run fetches new ones.
    fn outdated(&self, lists: &Lists, error: Error) -> Error {
        match error {
            Error::Tool { said, .. } if said.contains("404") && fs::remove_file(self.stamp(lists)).is_ok() => {
                Error::environment("the package sources have changed since their lists were fetched: run it again")
            }
            other => other,
        }
    }

    fn is_pinned(&self, package: &Package) -> bool {
        self.pins.get(&package.name).is_some_and(|pinned| pinned.sha256 == package.sha256)
    }

    /// Asks the lock, then apt, for those names that have not been asked for yet.
    fn look_up(&self, names: &[&str]) -> Result<()> {
        let mut known = self.known.borrow_mut();
        for name in names {
            if let Some(package) = self.pins.get(name) {
                known.insert((*name).to_owned(), Some(package.clone()));
            } else if matches!(self.pins, Pins::Only(_)) {
                known.insert((*name).to_owned(), None);
            }
        }
        let mut unknown: Vec<&str> = names.iter().copied().filter(|name| !known.contains_key(*name)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        known.extend(unknown.iter().map(|name| ((*name).to_owned(), None)));
        drop(known);
        let (sources, unknown): (Vec<&str>, Vec<&str>) =
            unknown.into_iter().partition(|name| source::bare(name).is_some());
        let mut found = Vec::new();
        for name in sources {
            found.extend(self.look_up_source(name)?);
        }
        if !unknown.is_empty() {
            found.extend(self.look_up_binary(&unknown)?);
        }
        self.known.borrow_mut().extend(found.into_iter().map(|package| (package.name.clone(), Some(package))));
        Ok(())
    }

    fn look_up_binary(&self, names: &[&str]) -> Result<Vec<Package>> {
        let tool = self.tool(&self.binary, "apt-cache").args(["show", "--no-all-versions", "--"]).args(names);
        let shown = match tool.output(self.context) {
            Ok(shown) => shown,
            // apt-cache fails when it finds none of the names, which is an answer.
            Err(Error::Tool { said, .. }) if said.contains("No packages found") => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(parse(&String::from_utf8_lossy(&shown)))
    }

    /// Which of several versions is the right one is apt's to say.
    fn look_up_source(&self, name: &str) -> Result<Option<Package>> {
        self.freshen(&self.source)?;
        let name = source::bare(name).unwrap_or(name);
        let ask = |program, args: &[&str]| {
            let said = self.tool(&self.source, program).args(args).arg("--").arg(name).output(self.context)?;
            Ok(String::from_utf8_lossy(&said).into_owned())
        };
        let printed = match ask("apt-get", &["source", "--print-uris", "--only-source"]) {
            Err(Error::Tool { said, .. }) if said.contains("Unable to find a source package") => return Ok(None),
            other => other?,
        };
        let shown = ask("apt-cache", &["showsrc", "--only-source"])?;
        Ok(source::chosen(&printed).and_then(|description| source::parse(&shown, description)))
    }

    fn update(&self, lists: &Lists) -> Result<()> {
        lists.updated.set(true);
        let _lock = self.context.cache.lock(&format!("apt-{}lists", lists.prefix))?;
        let step = self.context.progress.step(lists.title);
        if !lists.prefix.is_empty() {
            self.write_sources()?;
        }
        // Without this, apt calls a failed fetch a warning and keeps whatever it has.
        self.tool(lists, "apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]).run(self.context)?;
        files::write(&self.stamp(lists), b"")?;
        self.known.borrow_mut().clear();
        step.done();
        Ok(())
    }

    /// Old lists are better than none.
    fn update_or_warn(&self, lists: &Lists) -> Result<()> {
        match self.update(lists) {
            Err(Error::Tool { said, .. }) => {
                let reason = said.lines().last().unwrap_or("apt-get update failed").to_owned();
                self.context
                    .progress
                    .warn(&format!("the package lists could not be renewed, the old ones do: {reason}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Its time is when the lists were fetched.
    fn stamp(&self, lists: &Lists) -> PathBuf {
        self.root.join(format!("{}fetched", lists.prefix))
    }

    /// Writes the configuration that names the sources of what the machine's own names.
    fn write_sources(&self) -> Result<()> {
        let dir = self.root.join(SOURCE_PARTS);
        for old in files::list(&dir)? {
            fs::remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        let mut paths = Vec::new();
        for question in ["Dir::Etc::sourcelist/f", "Dir::Etc::sourceparts/d"] {
            let said = Tool::new("apt-config").args(["shell", "it", question]).output(self.context)?;
            // it='/etc/apt/sources.list'
            let said = String::from_utf8_lossy(&said).into_owned();
            let path = said.split('\'').nth(1).map(PathBuf::from).unwrap_or_default();
            if path.is_dir() { paths.extend(files::list(&path)?) } else { paths.push(path) }
        }
        let is_list = |path: &&PathBuf| path.extension().is_some_and(|end| end == "list" || end == "sources");
        for path in paths.iter().filter(is_list).filter(|path| path.is_file()) {
            files::write(
                &dir.join(path.file_name().unwrap_or_default()),
                source::sources_of(&files::read_text(path)?).as_bytes(),
            )?;
        }
        Ok(())
    }

    fn tool(&self, lists: &Lists, program: &str) -> Tool {
        let option = |name: &str, value: String| ["-o".to_owned(), format!("{name}={value}")];
        let below = |path: &str| self.root.join(path).display().to_string();
        let prefix = lists.prefix;
        let tool = Tool::new(program)
            .arg("-q")
            .args(option("Dir::State", below("")))
            .args(option("Dir::State::lists", below(&format!("{prefix}lists"))))
            .args(option("Dir::State::status", below("dpkg/status")))
            .args(option("Dir::Cache", below("")))
            .args(option("Dir::Cache::archives", below("archives")))
            // Some machines (container images) switch these off; with them a question takes a fraction of a second.
            .args(option("Dir::Cache::pkgcache", below(&format!("{prefix}pkgcache.bin"))))
            .args(option("Dir::Cache::srcpkgcache", below(&format!("{prefix}srcpkgcache.bin"))))
            // Fetching as another user needs directories that he may read.
            .args(option("APT::Sandbox::User", String::new()));
        if prefix.is_empty() {
            return tool;
        }
        tool.args(option("Dir::Etc::sourcelist", "/dev/null".to_owned()))
            .args(option("Dir::Etc::sourceparts", below(SOURCE_PARTS)))
    }
}

/// Reads what `apt-cache show` says.
fn parse(shown: &str) -> Vec<Package> {
    shown.split("\n\n").map(stanza).filter(|package| !package.name.is_empty()).collect()
}

fn stanza(text: &str) -> Package {
    let mut package = Package::default();
    // Lines that start with a space go on with the field before; none of ours does.
    for (field, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match field {
            "Package" => value.clone_into(&mut package.name),
            "Version" => value.clone_into(&mut package.version),
            "Section" => value.rsplit('/').next().unwrap_or(value).clone_into(&mut package.section),
            "Depends" | "Pre-Depends" => package.depends.extend(depends(value)),
            "SHA256" => value.clone_into(&mut package.sha256),
            "Size" => package.size = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    package
}

/// `a (>= 1), b:any | c` as names.
fn depends(value: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let end = text.find([' ', '(', ':', '[', '<']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    value.split(',').map(|group| group.split('|').map(|one| name(one.trim())).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_cache_shows() {
        let shown = "Package: libssl3\nVersion: 3.0.1-1\nSection: non-free/libs\nSize: 12\nSHA256: ab\n\
                     Pre-Depends: dpkg (>= 1.1)\nDepends: libc6 (>= 2.34), debconf:any | cdebconf\n\
                     Description: toolkit\n it has: colons\n\nPackage: zlib1g\nVersion: 1:1.2\n\n";
        let packages = parse(shown);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].exact(), "libssl3=3.0.1-1");
        assert_eq!((packages[0].section.as_str(), packages[0].size, packages[0].sha256.as_str()), ("libs", 12, "ab"));
        assert_eq!(packages[0].depends, [vec!["dpkg"], vec!["libc6"], vec!["debconf", "cdebconf"]]);
        assert_eq!(packages[1].exact(), "zlib1g=1:1.2");
    }
}
