//! Programs that a recipe has compiled: from the distribution's source package, linked statically with musl, for size.
//!
//! musl, and the kernel's headers that programs want besides, are packages of the distribution too, taken as an image's other
//! packages are: they are locked with them, and nothing of them has to be installed. Of the machine are the compiler and what
//! the source's own makefiles run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use thimble_spec::definition::Mistake;
use thimble_spec::recipe::RecipeSource;

use super::recipe::{is_absolute, is_below, is_package};
use super::tree::canonical;
use crate::apt::{self, Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::kernel::config::{self, Setting};
use crate::make;
use crate::place::{Source, refuse};
use crate::progress::Step;
use crate::tool::Tool;

/// Changes when the same inputs would give other bytes.
const FORMAT: &str = "compiled 2";
/// The kind of entry in the cache.
const STORE: &str = "compiled";
/// What the programs are linked with, and the headers of the kernel that they use.
const LIBRARIES: [&str; 2] = ["musl-dev", "linux-libc-dev"];
/// What a source package and its makefiles take besides the compiler.
const TOOLS: &[&str] = &["apt-config", "dpkg-source"];
/// And one with `./configure`.
const TOOLS_CONFIGURE: &[&str] = &["apt-config", "dpkg-source", "autoconf"];
/// Files that a program has, as long as none of it has been compiled.
const FILES_GUESS: u64 = 200;
/// What the compiler is told: each function apart, so that the linker leaves out what nothing reaches; without tables for
/// exceptions, which C has not; hardened as the distribution's programs are. `-Os` is in the environment, where a program's
/// own choice goes over it.
const FLAGS: &str = "-static -fPIE -fstack-protector-strong -ffunction-sections -fdata-sections \
                     -fno-asynchronous-unwind-tables -fno-unwind-tables";
/// What the linker is told: a program that lies at another address each time, with tables that are read-only before it starts.
const LINK_FLAGS: &str = "-static -pie --no-dynamic-linker -z text -z relro -z now --gc-sections";

/// A program to compile.
#[derive(Clone, Debug)]
pub struct Program {
    /// What the recipe says.
    pub source: RecipeSource,
    /// The options of its `config`.
    settings: Vec<Setting>,
    /// The recipe, for mistakes.
    file: Source,
    /// The key in it.
    key: String,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The files, by the paths that they have in an image.
    pub tree: PathBuf,
    /// Hash over sources, options and compiler.
    pub hash: String,
    /// What it was made from: the source package first.
    pub packages: Vec<Package>,
}

/// The programs of a recipe in `dir`, with the options that their files have; and the mistakes.
pub fn read(dir: &Path, sources: &[RecipeSource], file: &Source) -> (Vec<Program>, Vec<Mistake>) {
    let (mut programs, mut mistakes) = (Vec::new(), Vec::new());
    for (index, source) in sources.iter().enumerate() {
        let key = format!("source[{index}]");
        mistakes
            .extend(check(source).into_iter().map(|(part, message)| file.mistake(&format!("{key}.{part}"), message)));
        let settings = source.config.as_ref().map(|name| options(dir, name, file, &format!("{key}.config")));
        let settings = settings.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|wrong| {
            mistakes.extend(wrong);
            Vec::new()
        });
        programs.push(Program { source: source.clone(), settings, file: file.clone(), key });
    }
    (programs, mistakes)
}

/// What is wrong with it, by the last part of its key.
fn check(source: &RecipeSource) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if !is_package(&source.package) {
        wrong.push(("package".to_owned(), format!("`{}` is not the name of a package", source.package)));
    }
    if source.config.is_some() && source.configure.is_some() {
        let message = "the options are in `config` already: leave one of the two out".to_owned();
        wrong.push(("configure".to_owned(), message));
    }
    if source.keep.is_empty() {
        let message = "nothing of it is kept: write keep = { \"PROGRAM\" = \"/usr/bin/PROGRAM\" }".to_owned();
        wrong.push(("keep".to_owned(), message));
    }
    for (list, paths) in [("keep", &source.keep), ("links", &source.links)] {
        for (from, to) in paths {
            if !is_below(from) || !is_absolute(to) {
                let message = format!(
                    "`{from}` = `{to}` is not a path in the source's tree and an absolute one in the image, both without `..`"
                );
                wrong.push((format!("{list}.\"{from}\""), message));
            }
        }
    }
    wrong
}

fn options(dir: &Path, name: &str, file: &Source, key: &str) -> Result<Vec<Setting>, Vec<Mistake>> {
    let path = dir.join(name);
    let told = |message: String| vec![file.mistake(key, message)];
    if !is_below(name) {
        return Err(told(format!("`{name}` is not the name of a file beside the recipe")));
    }
    let text = files::read_text(&path).map_err(|_| told(format!("there is no file {}", path.display())))?;
    config::parse(&path.display().to_string(), &text).map(config::merge)
}

/// Programs of the machine that it takes to compile these.
pub fn tools(programs: &[Program]) -> &'static [&'static str] {
    match programs {
        [] => &[],
        _ if programs.iter().any(|program| program.source.configure.is_some()) => TOOLS_CONFIGURE,
        _ => TOOLS,
    }
}

/// The programs, from the cache or compiled.
///
/// # Errors
/// A package is missing, an option does not survive, the compiler fails, it makes no file that is to be kept.
pub fn build(context: &Context, apt: &Apt<'_>, program: &Program) -> Result<Compiled> {
    let name = apt::source::named(&program.source.package);
    let packages = apt.find(&[name.as_str(), LIBRARIES[0], LIBRARIES[1]])?;
    let key = packages.iter().fold(Key::new(FORMAT), |key, package| key.with(&package.sha256));
    let key = key.with(super::json(&program.source)?).with(config::render("", &program.settings));
    let key = key.with(make::version(context, "gcc")?).with(make::version(context, "ld")?);
    let hash = key.finish();
    let entry = context.cache.dir_for(STORE, &hash, |out| compile(context, apt, program, &packages, out))?;
    Ok(Compiled { tree: entry.path, hash, packages })
}

fn compile(context: &Context, apt: &Apt<'_>, program: &Program, packages: &[Package], out: &Path) -> Result<()> {
    let [source, musl, linux] = packages else {
        return Err(Error::environment("apt found other packages than those it was asked for: run it again"));
    };
    let tree = context.cache.dir_for("source", &source.sha256, |dir| apt.unpack_into(source, dir))?;
    let (musl, linux) = (apt.unpacked(musl)?, apt.unpacked(linux)?);
    let work = files::temp_dir_in(&context.cache.temp_dir(), "compile-")?;
    let built = work.path().join(apt::source::TREE);
    Tool::new("cp").arg("-a").arg(tree.path.join(apt::source::TREE)).arg(&built).run(context)?;
    let compiler = compiler(work.path(), &musl, &linux)?;
    let title = format!("{} {}", program.source.package, source.version);
    let step = context.progress.step(format!("program {title}"));
    let world = World { context, tree: &built, compiler: &compiler };
    world.make(program, &title, &step)?;
    take(program, &built, out)?;
    step.done();
    Ok(())
}

/// Writes a compiler that knows no other C library than musl, and gives its path. What gcc is told beside its arguments stands
/// in a file of specs (gcc manual, "Specifying Subprocesses and the Switches to Pass to Them").
fn compiler(work: &Path, musl: &Path, linux: &Path) -> Result<PathBuf> {
    let (specs, path) = (work.join("specs"), work.join("cc"));
    let below = |root: &Path, path: &str| root.join(path).display().to_string();
    let libc = below(musl, "usr/lib/x86_64-linux-musl");
    let headers = below(musl, "usr/include/x86_64-linux-musl");
    let [of_kernel, of_machine] = ["usr/include", "usr/include/x86_64-linux-gnu"].map(|path| below(linux, path));
    let text = format!(
        "*cpp_unique_options:\n\
         + -nostdinc -isystem {headers} -isystem include%s -idirafter {of_kernel} -idirafter {of_machine}\n\n\
         *startfile:\n{libc}/rcrt1.o {libc}/crti.o crtbeginS.o%s\n\n\
         *endfile:\ncrtendS.o%s {libc}/crtn.o\n\n\
         *link:\n-nostdlib --build-id=none %{{!r:{LINK_FLAGS}}}\n\n\
         *link_libgcc:\n-L{libc} -L.%s\n\n\
         *libgcc:\nlibgcc.a%s libgcc_eh.a%s\n\n"
    );
    files::write(&specs, text.as_bytes())?;
    let (specs, tree) = (specs.display(), work.join(apt::source::TREE));
    let script =
        format!("#!/bin/sh\nexec gcc '-specs={specs}' {FLAGS} '-ffile-prefix-map={}=.' \"$@\"\n", tree.display());
    files::write_as(&path, script.as_bytes(), 0o755)?;
    Ok(path)
}

/// Where nothing but the tree, the options and the compiler decide what comes out.
struct World<'a> {
    context: &'a Context,
    tree: &'a Path,
    compiler: &'a Path,
}

impl World<'_> {
    fn tool(&self, program: &str) -> Tool {
        Tool::new(program)
            .bare_environment()
            .env("CC", self.compiler)
            .env("CFLAGS", "-Os")
            .env("SOURCE_DATE_EPOCH", "0")
            .env("KCONFIG_NOTIMESTAMP", "1")
            .env("TZ", "UTC")
            .dir(self.tree)
    }

    fn make(&self, program: &Program, title: &str, step: &Step) -> Result<()> {
        step.message("configuring");
        // Makefiles have a compiler of their own unless they are told.
        let compiler = format!("CC={}", self.compiler.display());
        let make = self.tool("make").arg(compiler).args(&program.source.make);
        let made = self
            .configure(program)
            .and_then(|()| make::run(self.context, make, &program.source.package, FILES_GUESS, step));
        made.map_err(|error| match error {
            Error::Tool { .. } => Error::Environment(format!("{title} cannot be compiled: {error}")),
            other => other,
        })
    }

    fn configure(&self, program: &Program) -> Result<()> {
        if let Some(arguments) = &program.source.configure {
            self.autoconf()?;
            self.tool("sh").arg("./configure").args(arguments).run(self.context)?;
        }
        if program.source.config.is_some() {
            self.tool("make").arg("allnoconfig").run(self.context)?;
            let path = self.tree.join(".config");
            let none = files::read_text(&path)?;
            files::write(&path, config::render(&none, &program.settings).as_bytes())?;
            // Kconfig of programs has no olddefconfig: an empty line is the default.
            self.tool("sh").args(["-c", "yes '' | make oldconfig"]).run(self.context)?;
            refuse(config::lost(&program.settings, &files::read_text(&path)?, "make oldconfig"))?;
        }
        Ok(())
    }

    /// A patch of the distribution to what `./configure` is made from makes it anew, as it does in the distribution's own
    /// build; what a patch has changed is newer than the rest.
    fn autoconf(&self) -> Result<()> {
        let macros = self.tree.join("m4");
        let mut from = vec![self.tree.join("configure.ac"), self.tree.join("aclocal.m4")];
        from.extend(if macros.is_dir() { files::list(&macros)? } else { Vec::new() });
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
        let made = changed(&self.tree.join("configure"));
        if from.iter().any(|path| changed(path) > made) { self.tool("autoconf").run(self.context) } else { Ok(()) }
    }
}

/// Takes what the recipe keeps into the directory that stays.
fn take(program: &Program, built: &Path, out: &Path) -> Result<()> {
    let RecipeSource { package, keep, links, .. } = &program.source;
    let missing = |list: &str, from: &str| {
        let key = format!("{}.{list}.\"{from}\"", program.key);
        program.file.error(&key, format!("compiling {package} makes no file {from}: see what `make` of it is told"))
    };
    let place = |path: &str| -> Result<PathBuf> {
        let place = out.join(&canonical(path)[1..]);
        files::make_dir(files::parent(&place))?;
        Ok(place)
    };
    for (from, to) in keep {
        let (source, place) = (built.join(from), place(to)?);
        if !source.is_file() {
            return Err(missing("keep", from));
        }
        fs::copy(&source, &place).map_err(Error::io("copy", &source))?;
        let mode =
            if fs::metadata(&source).is_ok_and(|data| data.permissions().mode() & 0o111 != 0) { 0o755 } else { 0o644 };
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", &place))?;
    }
    for (from, to) in links {
        let list = fs::read_to_string(built.join(from)).map_err(|_| missing("links", from))?;
        for link in list.lines().filter(|line| is_absolute(line) && canonical(line) != canonical(to)) {
            let place = place(link)?;
            if !place.is_symlink() {
                symlink(to, &place).map_err(Error::io("write", &place))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;

    /// The programs of a recipe in `dir`, or its mistakes.
    fn programs(dir: &Path, text: &str) -> Result<Vec<Program>, Vec<String>> {
        let file = Source { file: "recipe.toml".to_owned(), text: format!("summary = \"s\"\n{text}") };
        let recipe = crate::image::recipe::parse(&file).unwrap();
        match read(dir, &recipe.sources, &file) {
            (programs, mistakes) if mistakes.is_empty() => Ok(programs),
            (_, mistakes) => Err(mistakes.iter().map(Mistake::to_string).collect()),
        }
    }

    /// What is told of the one program that `makefile` is to make.
    fn compiled(dir: &Path, program: &Program, makefile: &str) -> Result<()> {
        let context = Context { cache: Cache::open_at(&dir.join("cache")).unwrap(), progress: Progress::quiet() };
        let tree = dir.join("tree");
        files::make_dir(&tree).unwrap();
        fs::write(tree.join("Makefile"), makefile).unwrap();
        let world = World { context: &context, tree: &tree, compiler: Path::new("/cc") };
        world.make(program, "busybox 1:1", &context.progress.step("test"))?;
        take(program, &tree, &dir.join("out"))
    }

    const BUSYBOX: &str = "[[source]]\npackage = \"busybox\"\nkeep = { \"bb/busybox\" = \"/bin/busybox\" }\n\
                           links = { \"names\" = \"/bin/busybox\" }\n";

    #[test]
    fn what_cannot_be_compiled_is_told_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[[source]]\npackage = \"Bash\"\nconfig = \"x.config\"\nconfigure = []\nkeep = {}\n\
                    [[source]]\npackage = \"bash\"\nkeep = { \"../bash\" = \"/bin/bash\" }\n";
        let there_is_none = format!("there is no file {}", dir.path().join("x.config").display());
        assert_eq!(
            programs(dir.path(), text).unwrap_err(),
            [
                "recipe.toml:3: source[0].package: `Bash` is not the name of a package",
                "recipe.toml:5: source[0].configure: the options are in `config` already: leave one of the two out",
                "recipe.toml:6: source[0].keep: nothing of it is kept: write keep = { \"PROGRAM\" = \"/usr/bin/PROGRAM\" }",
                &format!("recipe.toml:4: source[0].config: {there_is_none}"),
                "recipe.toml:9: source[1].keep.\"../bash\": `../bash` = `/bin/bash` is not a path in the source's tree and an \
                 absolute one in the image, both without `..`",
            ]
        );
        fs::write(dir.path().join("x.config"), "CONFIG_A=y\nB=y\n").unwrap();
        let text = BUSYBOX.replace("keep", "config = \"x.config\"\nkeep");
        let told = programs(dir.path(), &text).unwrap_err();
        assert!(told[0].ends_with("x.config:2: write CONFIG_NAME=value: options start with CONFIG_"), "{told:?}");
    }

    #[test]
    fn what_is_kept_has_the_paths_that_the_recipe_says() {
        let dir = tempfile::tempdir().unwrap();
        let program = programs(dir.path(), BUSYBOX).unwrap().remove(0);
        let makefile = "all:\n\tmkdir bb\n\techo $(CC) >bb/busybox\n\tchmod 755 bb/busybox\n\
                        \tprintf '/bin/ls\\n/usr/bin/[\\n/bin/busybox\\nx\\n' >names\n";
        compiled(dir.path(), &program, makefile).unwrap();
        let out = dir.path().join("out/usr/bin");
        let names: Vec<_> =
            files::list(&out).unwrap().iter().map(|path| path.strip_prefix(&out).unwrap().to_owned()).collect();
        assert_eq!(names, ["[", "busybox", "ls"].map(PathBuf::from));
        assert_eq!(fs::read_link(out.join("ls")).unwrap(), Path::new("/bin/busybox"));
        assert_eq!(fs::read(out.join("busybox")).unwrap(), b"/cc\n");
        assert_eq!(fs::metadata(out.join("busybox")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = programs(dir.path(), BUSYBOX).unwrap().remove(0);
        let told = compiled(dir.path(), &program, "all:\n\t@echo shell.c: no >&2; exit 1\n").unwrap_err().to_string();
        assert!(
            told.starts_with("busybox 1:1 cannot be compiled: `make CC=/cc -j") && told.contains("shell.c: no"),
            "{told}"
        );
        let told = compiled(dir.path(), &program, "all:\n").unwrap_err().to_string();
        assert_eq!(
            told,
            "recipe.toml:4: source[0].keep.\"bb/busybox\": compiling busybox makes no file bb/busybox: see what `make` of it is \
             told"
        );
    }

    #[test]
    fn an_option_that_does_not_survive_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.config"), "CONFIG_LS=y\nCONFIG_LSS=y\n").unwrap();
        let text = BUSYBOX.replace("keep", "config = \"x.config\"\nkeep");
        let program = programs(dir.path(), &text).unwrap().remove(0);
        let makefile = "allnoconfig:\n\techo '# CONFIG_LS is not set' >.config\n\
                        oldconfig:\n\tread line\n\tsed -i /LSS/d .config\n";
        let told = compiled(dir.path(), &program, makefile).unwrap_err().to_string();
        assert!(
            told.ends_with(
                "x.config:2: CONFIG_LSS: y did not survive `make oldconfig`, which makes it n: no such option, or a dependency \
                 is missing"
            ),
            "{told}"
        );
    }
}
