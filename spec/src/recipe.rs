//! `images/NAME/recipe.toml`: what a guest's image is made of.
//!
//! ```toml
//! summary = "nginx with a page that counts its starts"
//! include = ["ssh"]                           # recipes that this one has in it, with their files
//! packages = ["nginx", "busybox-static"]      # taken from the machine's own package sources
//! keep = ["/usr/sbin/nginx", "/usr/bin/busybox", "/etc/nginx/mime.types"]
//!                                             # files or directories of the packages, with the libraries that they need
//! stubs = ["libsystemd.so.0"]                 # libraries of which only the names are there
//! localize = ["mariadbd"]                     # files whose symbols are for nobody but the rest of the image
//! ports = [80]                                # what may be open
//! pack = "small"                              # or "fast"
//! read-only-root = true                       # services write to the directories below and nowhere else
//!
//! identity = ["/var/lib/dropbear"]            # what a copy of a guest's disk must not keep
//!
//! [stub-variables]                            # functions of stubs that give the address of a text's address
//! "__xmlParserVersion" = "none"
//! [links]                                     # symbolic links: path = target
//! "/bin/sh" = "/usr/bin/busybox"
//! [users]                                     # name = uid (and gid)
//! www-data = 33
//! [sysctl]
//! "net.core.somaxconn" = "1024"
//! [[source]]                                  # programs that are compiled, static and small
//! package = "dropbear"                        # a source package
//! configure = ["--disable-zlib"]              # arguments of its ./configure
//! make = ["PROGRAMS=dropbear"]                # arguments of make
//! keep = { "dropbear" = "/usr/sbin/dropbear" }
//! [[directory]]                               # made on the guest's disk before anything starts
//! path = "/var/lib/web"
//! owner = "www-data"
//! mode = 0o755
//! [[service]]
//! name = "nginx"
//! exec = ["/usr/sbin/nginx", "-g", "daemon off;"]
//! ready = { port = 80 }
//! ```
//! A directory `files/` beside the recipe is laid over the packages' files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::service::{Ready, Restart, ServiceKind};

/// A recipe as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it is, in a line.
    pub summary: String,
    /// Recipes that this one has in it: all that they say, and their files.
    #[serde(default)]
    pub include: Vec<String>,
    /// Packages of the distribution.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Programs to compile.
    #[serde(default, rename = "source")]
    pub sources: Vec<RecipeSource>,
    /// Absolute paths in the packages to keep, with the ELF closure of each; directories with all below them.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Names of libraries (`DT_SONAME`) that programs are linked with and that they do not use here: functions that
    /// return 0 and data that is zero take their place.
    #[serde(default)]
    pub stubs: Vec<String>,
    /// Functions of stubs that give the address of a variable, and the text that this one points to; with an empty text, it is
    /// zero.
    #[serde(default, rename = "stub-variables")]
    pub stub_variables: BTreeMap<String, String>,
    /// Libraries that are there as a whole though a recipe that is included has a stub for them.
    #[serde(default)]
    pub whole: Vec<String>,
    /// Names of programs, and of libraries (`DT_SONAME`), that give up the symbols that no other file of the image names.
    #[serde(default)]
    pub localize: Vec<String>,
    /// TCP ports that its services open.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// How the image is packed.
    #[serde(default)]
    pub pack: Pack,
    /// Whether services find a root that nobody writes to, with [`Self::directories`] on the guest's disk.
    #[serde(default, rename = "read-only-root")]
    pub read_only_root: bool,
    /// Files, and directories of which the content goes, that make a guest itself: one that is started from a copied disk
    /// makes new ones.
    #[serde(default)]
    pub identity: Vec<String>,
    /// Symbolic links: path to target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Users, each with a group of the same name and number; `root` is always there.
    #[serde(default)]
    pub users: BTreeMap<String, u32>,
    /// `/proc/sys` settings.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Directories that services write.
    #[serde(default, rename = "directory")]
    pub directories: Vec<RecipeDirectory>,
    /// Programs to start.
    #[serde(default, rename = "service")]
    pub services: Vec<RecipeService>,
}

/// What counts in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pack {
    /// Time: EROFS with LZ4.
    #[default]
    Fast,
    /// Bytes: SquashFS with xz.
    Small,
}

/// Programs that are compiled from a source package of the distribution, linked statically with musl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeSource {
    /// The source package.
    pub package: String,
    /// For programs with Kconfig: a file of options beside the recipe, laid over `make allnoconfig`.
    #[serde(default)]
    pub config: Option<String>,
    /// For programs with `./configure`: its arguments.
    #[serde(default)]
    pub configure: Option<Vec<String>>,
    /// Arguments of `make`.
    #[serde(default)]
    pub make: Vec<String>,
    /// What is taken of the tree in which it was compiled: path there = path in the image.
    pub keep: BTreeMap<String, String>,
    /// Files of that tree that have paths in them, a line each, which become links: path there = path in the image that the
    /// links lead to.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
}

/// A directory that services write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeDirectory {
    /// Absolute path.
    pub path: String,
    /// Owner, a name of [`Recipe::users`] or `root`.
    #[serde(default = "root")]
    pub owner: String,
    /// Permission bits.
    #[serde(default = "default_mode")]
    pub mode: u32,
}

/// One program, see [`crate::service::Service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeService {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub exec: Vec<String>,
    /// Whether it stays.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Services that come first.
    #[serde(default)]
    pub after: Vec<String>,
    /// User, a name of [`Recipe::users`] or `root`.
    #[serde(default = "root")]
    pub user: String,
    /// Environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// When it counts as ready.
    #[serde(default)]
    pub ready: Option<Ready>,
}

fn root() -> String {
    "root".to_owned()
}

fn default_mode() -> u32 {
    0o755
}
