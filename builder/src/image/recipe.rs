//! A recipe, read and checked as far as that can be without its packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thimble_spec::definition::{self, Mistake};
use thimble_spec::recipe::{Recipe, RecipeService};
use thimble_spec::service::{Directory, Limits, Ready, Service, Services};

use super::compiled::{self, Program};
use crate::nearest::hint;
use crate::place::Source;

/// The user that every image has.
const ROOT: &str = "root";

/// An image's recipe.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Directories that are laid over the packages' files; of a path that is there twice, the first one's.
    pub overlays: Vec<PathBuf>,
    /// What the file says, and those that it includes.
    pub recipe: Recipe,
    /// What is compiled for it.
    pub programs: Vec<Program>,
    /// What PID 1 is told.
    pub services: Services,
    /// The file, for mistakes.
    pub source: Source,
}

/// Reads what stands in one file.
///
/// # Errors
/// All mistakes of its form.
pub fn parse(source: &Source) -> Result<Recipe, Vec<Mistake>> {
    definition::parse_recipe(&source.file, &source.text)
        .map_err(|mistakes| mistakes.iter().cloned().collect::<Vec<_>>())
}

/// Checks the recipe of `name` in `dir`, which has those in it that are `included`.
///
/// # Errors
/// All mistakes.
pub fn complete(
    name: &str,
    dir: &Path,
    mut recipe: Recipe,
    included: &[Image],
    source: Source,
) -> Result<Image, Vec<Mistake>> {
    let mut overlays = vec![dir.join("files")];
    let (mut programs, wrong) = compiled::read(dir, &recipe.sources, &source);
    for image in included {
        merge(&mut recipe, &image.recipe);
        overlays.extend(image.overlays.iter().cloned());
        let is_new = |program: &&Program| programs.iter().all(|there| there.source.package != program.source.package);
        let others: Vec<Program> = image.programs.iter().filter(is_new).cloned().collect();
        programs.extend(others);
    }
    let Recipe { stubs, whole, .. } = &mut recipe;
    stubs.retain(|stub| !whole.contains(stub));
    let mut checker = Checker { source: &source, recipe: &recipe, mistakes: wrong };
    let services = checker.check();
    if !checker.mistakes.is_empty() {
        return Err(checker.mistakes);
    }
    Ok(Image { name: name.to_owned(), overlays, recipe, programs, services, source })
}

/// Adds what another recipe says; of what both say, the first one's stays.
fn merge(recipe: &mut Recipe, other: &Recipe) {
    fn lists<T: Clone, K: PartialEq>(first: &mut Vec<T>, second: &[T], key: impl Fn(&T) -> K) {
        for item in second {
            if !first.iter().any(|there| key(there) == key(item)) {
                first.push(item.clone());
            }
        }
    }
    fn maps<T: Clone>(first: &mut BTreeMap<String, T>, second: &BTreeMap<String, T>) {
        for (key, value) in second {
            first.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    lists(&mut recipe.packages, &other.packages, String::clone);
    lists(&mut recipe.sources, &other.sources, |source| source.package.clone());
    lists(&mut recipe.keep, &other.keep, String::clone);
    lists(&mut recipe.stubs, &other.stubs, String::clone);
    maps(&mut recipe.stub_variables, &other.stub_variables);
    lists(&mut recipe.whole, &other.whole, String::clone);
    lists(&mut recipe.localize, &other.localize, String::clone);
    lists(&mut recipe.identity, &other.identity, String::clone);
    lists(&mut recipe.ports, &other.ports, |port| *port);
    lists(&mut recipe.directories, &other.directories, |directory| directory.path.clone());
    lists(&mut recipe.services, &other.services, |service| service.name.clone());
    maps(&mut recipe.links, &other.links);
    maps(&mut recipe.users, &other.users);
    maps(&mut recipe.sysctl, &other.sysctl);
    recipe.read_only_root |= other.read_only_root;
    recipe.pack = recipe.pack.max(other.pack);
}

struct Checker<'a> {
    source: &'a Source,
    recipe: &'a Recipe,
    mistakes: Vec<Mistake>,
}

impl Checker<'_> {
    fn wrong(&mut self, key: &str, message: impl Into<String>) {
        self.mistakes.push(self.source.mistake(key, message));
    }

    fn check(&mut self) -> Services {
        for (index, path) in self.recipe.keep.iter().enumerate() {
            self.path(path, &format!("keep[{index}]"));
        }
        for (index, path) in self.recipe.identity.iter().enumerate() {
            self.path(path, &format!("identity[{index}]"));
        }
        for (name, text) in &self.recipe.stub_variables {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                let message = "the name of a function and a text of ASCII's printable characters are wanted";
                self.wrong(&format!("stub-variables.{name}"), message);
            }
        }
        for path in self.recipe.links.keys() {
            self.path(path, &format!("links.\"{path}\""));
        }
        for (index, package) in self.recipe.packages.iter().enumerate() {
            if !is_package(package) {
                self.wrong(&format!("packages[{index}]"), format!("`{package}` is not the name of a package"));
            }
        }
        self.users();
        let directories = self.recipe.directories.iter().enumerate().map(|(index, directory)| {
            let key = format!("directory[{index}]");
            self.path(&directory.path, &format!("{key}.path"));
            if directory.mode > 0o7777 {
                self.wrong(&format!("{key}.mode"), "permission bits are 0o7777 at most");
            }
            let uid = self.user(&directory.owner, &format!("{key}.owner"));
            Directory { path: directory.path.clone(), uid, gid: uid, mode: directory.mode }
        });
        let directories = directories.collect();
        Services {
            sysctl: self.recipe.sysctl.clone(),
            read_only_root: self.recipe.read_only_root,
            directories,
            identity: self.recipe.identity.clone(),
            services: self.services(),
        }
    }

    fn path(&mut self, path: &str, key: &str) {
        if !is_absolute(path) {
            self.wrong(key, format!("`{path}` is not an absolute path: write it as it is in the image, without `..`"));
        }
    }

    fn users(&mut self) {
        let mut numbers: BTreeMap<u32, &str> = BTreeMap::new();
        for (name, uid) in &self.recipe.users {
            let key = format!("users.\"{name}\"");
            let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
            if name.is_empty() || !name.bytes().all(sound) {
                self.wrong(&key, format!("`{name}` is not the name of a user: use a-z, 0-9, - and _"));
            }
            if (name == ROOT) != (*uid == 0) {
                self.wrong(&key, "root is always there and is the only user with the number 0");
            }
            if let Some(other) = numbers.insert(*uid, name) {
                self.wrong(&key, format!("{other} has the number {uid} already"));
            }
        }
    }

    fn user(&mut self, name: &str, key: &str) -> u32 {
        match self.recipe.users.get(name) {
            Some(uid) => *uid,
            None if name == ROOT => 0,
            None => {
                let hint = hint(name, self.recipe.users.keys().map(String::as_str));
                self.wrong(key, format!("there is no user {name}: add it to [users]{hint}"));
                0
            }
        }
    }

    /// The services in an order in which each stands behind those that it waits for.
    fn services(&mut self) -> Vec<Service> {
        let recipes = &self.recipe.services;
        let mut resolved = Vec::new();
        for (index, service) in recipes.iter().enumerate() {
            let key = format!("service[{index}]");
            if service.name.is_empty() {
                self.wrong(&format!("{key}.name"), "a service needs a name");
            }
            if recipes[..index].iter().any(|other| other.name == service.name) {
                self.wrong(&format!("{key}.name"), format!("there is a service {} already", service.name));
            }
            match service.exec.first() {
                Some(program) => self.path(program, &format!("{key}.exec")),
                None => self.wrong(&format!("{key}.exec"), "name a program"),
            }
            for (position, name) in service.after.iter().enumerate() {
                if !recipes.iter().any(|other| other.name == *name) {
                    let hint = hint(name, recipes.iter().map(|other| other.name.as_str()));
                    self.wrong(&format!("{key}.after[{position}]"), format!("there is no service {name}{hint}"));
                }
            }
            match &service.ready {
                Some(Ready::File(path)) => self.path(path, &format!("{key}.ready.file")),
                Some(Ready::Port(0)) => self.wrong(&format!("{key}.ready.port"), "0 is no port"),
                Some(Ready::Port(_)) | None => {}
            }
            let uid = self.user(&service.user, &format!("{key}.user"));
            resolved.push(resolve(service, uid));
        }
        if !self.mistakes.is_empty() {
            return Vec::new();
        }
        order(resolved).unwrap_or_else(|circle| {
            let index = recipes.iter().position(|service| service.name == circle[0]).unwrap_or(0);
            let message = format!("these wait for each other, so none would start: {}", circle.join(", "));
            self.wrong(&format!("service[{index}].after"), message);
            Vec::new()
        })
    }
}

/// Whether a package may be called so (Debian policy, 5.6.7).
pub fn is_package(name: &str) -> bool {
    let sound = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(byte);
    name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.as_bytes().iter().all(sound)
}

/// Whether it is an absolute path, and never a way out of the image.
pub fn is_absolute(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(is_below)
}

/// Whether a path from somewhere stays below it.
pub fn is_below(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn resolve(service: &RecipeService, uid: u32) -> Service {
    Service {
        limits: Limits::default(),
        name: service.name.clone(),
        exec: service.exec.clone(),
        kind: service.kind,
        after: service.after.clone(),
        uid,
        gid: uid,
        environment: service.environment.clone(),
        restart: service.restart,
        ready: service.ready.clone(),
    }
}

/// As close to the order of the file as `after` allows; or the names in the circle.
fn order(mut waiting: Vec<Service>) -> Result<Vec<Service>, Vec<String>> {
    let mut ordered: Vec<Service> = Vec::new();
    while !waiting.is_empty() {
        let free = waiting
            .iter()
            .position(|service| service.after.iter().all(|name| ordered.iter().any(|done| done.name == *name)));
        match free {
            Some(index) => ordered.push(waiting.remove(index)),
            None => return Err(waiting.into_iter().map(|service| service.name).collect()),
        }
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Image, Vec<String>> {
        let source = Source { file: "recipe.toml".into(), text: text.into() };
        super::parse(&source)
            .and_then(|recipe| complete("web", Path::new("/images/web"), recipe, &[], source))
            .map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
    }

    const SERVICES: &str = r#"
summary = "two"
[users]
www = 33
[[directory]]
path = "/var/lib/web"
owner = "www"
[[service]]
name = "late"
exec = ["/usr/bin/late"]
after = ["early"]
user = "www"
[[service]]
name = "early"
exec = ["/usr/bin/early"]
"#;

    #[test]
    fn services_stand_behind_those_they_wait_for() {
        let image = parse(SERVICES).unwrap();
        let names: Vec<&str> = image.services.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["early", "late"]);
        assert_eq!(image.services.services[1].uid, 33);
        assert_eq!((image.services.directories[0].gid, image.services.directories[0].mode), (33, 0o755));
    }

    #[test]
    fn a_circle_is_told() {
        let text = format!("{SERVICES}after = [\"late\"]\n");
        assert_eq!(
            parse(&text).unwrap_err(),
            ["recipe.toml:11: service[0].after: these wait for each other, so none would start: late, early"]
        );
    }

    #[test]
    fn names_that_mean_nothing_are_told() {
        let text = SERVICES
            .replace("user = \"www\"", "user = \"wwx\"")
            .replace("[\"early\"]", "[\"earlier\"]")
            .replace("/var/lib/web", "/var/../web");
        assert_eq!(
            parse(&text).unwrap_err(),
            [
                "recipe.toml:6: directory[0].path: `/var/../web` is not an absolute path: write it as it is in the \
                 image, without `..`",
                "recipe.toml:11: service[0].after[0]: there is no service earlier; did you mean early?",
                "recipe.toml:12: service[0].user: there is no user wwx: add it to [users]; did you mean www?",
            ]
        );
    }
}
