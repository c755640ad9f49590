//! Recipes that have others in them.
//!
//! What a recipe itself says comes first; of what is said twice, the first is taken. So it adds files, services and
//! settings to those that it includes, or puts its own in their place.

use thimble_spec::definition::Mistake;

use super::recipe::{self, Image};
use crate::error::Result;
use crate::files;
use crate::library::Library;
use crate::nearest::hint;
use crate::place::Source;

/// Reads the recipe of an image that is there, and those that it includes; none if there are mistakes in them.
///
/// # Errors
/// A file cannot be read.
pub fn read(library: &Library, name: &str, mistakes: &mut Vec<Mistake>) -> Result<Option<Image>> {
    below(library, name, &mut Vec::new(), mistakes)
}

/// `above` are those that include this one.
fn below(library: &Library, name: &str, above: &mut Vec<String>, mistakes: &mut Vec<Mistake>) -> Result<Option<Image>> {
    let dir = library.image(name);
    let path = dir.join("recipe.toml");
    let source = Source { file: path.display().to_string(), text: files::read_text(&path)? };
    let recipe = match recipe::parse(&source) {
        Ok(recipe) => recipe,
        Err(wrong) => {
            mistakes.extend(wrong);
            return Ok(None);
        }
    };
    let mut included = Vec::new();
    above.push(name.to_owned());
    for (index, other) in recipe.include.iter().enumerate() {
        let mut wrong = |message| mistakes.push(source.mistake(&format!("include[{index}]"), message));
        if above.contains(other) {
            wrong(format!("{} include each other: leave one out", above.join(" and ")));
        } else if !library.image(other).join("recipe.toml").is_file() {
            let hint = hint(other, Library::siblings(&library.image(other)).iter().map(String::as_str));
            wrong(format!("there is no image {other}{hint}"));
        } else {
            included.extend(below(library, other, above, mistakes)?);
        }
    }
    above.pop();
    if included.len() < recipe.include.len() {
        return Ok(None);
    }
    Ok(recipe::complete(name, &dir, recipe, &included, source).map_err(|wrong| mistakes.extend(wrong)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// A library with these recipes.
    fn library(root: &Path, recipes: &[(&str, &str)]) -> Library {
        for (name, text) in recipes {
            let dir = root.join("images").join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("recipe.toml"), format!("summary = \"s\"\n{text}")).unwrap();
        }
        fs::create_dir_all(root.join("configs")).unwrap();
        Library::find(Some(root), root).unwrap()
    }

    const DB: &str = r#"
packages = ["busybox", "mariadb"]
read-only-root = true
[users]
mysql = 105
[sysctl]
"vm.swappiness" = "10"
[[service]]
name = "mariadb"
exec = ["/usr/sbin/mariadbd"]
user = "mysql"
"#;

    #[test]
    fn one_has_all_of_the_other_and_its_own_first() {
        let dir = tempfile::tempdir().unwrap();
        let web = r#"
include = ["db"]
packages = ["nginx", "busybox"]
[sysctl]
"vm.swappiness" = "60"
[[service]]
name = "page"
exec = ["/usr/bin/page"]
after = ["mariadb"]
user = "mysql"
"#;
        let library = library(dir.path(), &[("db", DB), ("web", web)]);
        let mut mistakes = Vec::new();
        let web = read(&library, "web", &mut mistakes).unwrap().expect("it is sound");
        assert_eq!(web.recipe.packages, ["nginx", "busybox", "mariadb"]);
        assert_eq!(web.services.sysctl["vm.swappiness"], "60");
        assert!(web.services.read_only_root);
        let started: Vec<&str> = web.services.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(started, ["mariadb", "page"]);
        assert_eq!(web.services.services[1].uid, 105);
        assert_eq!(web.overlays, [library.image("web").join("files"), library.image("db").join("files")]);
    }

    #[test]
    fn what_cannot_be_included_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let circle = [("a", "include = [\"b\"]\n"), ("b", "include = [\"a\"]\n"), ("c", "include = [\"bb\"]\n")];
        let library = library(dir.path(), &circle);
        for (name, place, told) in [
            ("a", "b/recipe.toml:2: include[0]", "a and b include each other: leave one out"),
            ("c", "c/recipe.toml:2: include[0]", "there is no image bb; did you mean b?"),
        ] {
            let mut mistakes = Vec::new();
            assert!(read(&library, name, &mut mistakes).unwrap().is_none());
            let text = mistakes[0].to_string();
            assert!(text.ends_with(&format!("{place}: {told}")) && mistakes.len() == 1, "{text}");
        }
    }
}
