//! Modules of JavaScript as one script that a browser runs: `require` of the CommonJS modules of a package is followed from
//! the first one, by paths alone.

use std::collections::BTreeMap;

use regex::Regex;

use crate::image::tree::follow;

/// Modules of a script, at most: a package that wants more is not meant for this.
const MODULES_MAX: usize = 1000;
/// What calls another module by a path of its own package.
const REQUIRE: &str = r#"\brequire\(\s*["'](\.{1,2}/[^"']+)["']\s*\)"#;
/// Where the compiler left its map, which is not packed.
const SOURCE_MAP: &str = r"(?m)^//# sourceMappingURL=.*$";

/// The script of the module at `entry`: a name for what that exports. `read` gives the text of a module.
///
/// # Errors
/// A module is not there: its path, and who wants it.
pub fn of(name: &str, entry: &str, read: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    // Both are texts of ours.
    let (require, map) = (Regex::new(REQUIRE), Regex::new(SOURCE_MAP));
    let (Ok(require), Ok(map)) = (require, map) else { return Err("an expression cannot be read".to_owned()) };
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    let mut wanted = vec![(entry.to_owned(), "the definition of the script".to_owned())];
    while let Some((path, by)) = wanted.pop() {
        if modules.contains_key(&path) {
            continue;
        }
        let text = read(&path).ok_or_else(|| format!("there is no module {path}, which {by} wants"))?;
        let text = map.replace_all(&text, "");
        let target = |word: &str| with_extension(follow(&path, word));
        wanted.extend(require.captures_iter(&text).map(|found| (target(&found[1]), path.clone())));
        let text =
            require.replace_all(&text, |found: &regex::Captures<'_>| format!("require({:?})", target(&found[1])));
        modules.insert(path.clone(), text.trim().to_owned());
        if modules.len() > MODULES_MAX {
            return Err(format!("{entry} wants more than {MODULES_MAX} modules"));
        }
    }
    let mut script = format!("var {name} = (function () {{\n\"use strict\";\nvar modules = {{\n");
    for (path, text) in &modules {
        script.push_str(&format!("{path:?}: function (require, module, exports) {{\n{text}\n}},\n"));
    }
    // A module that is wanted while it is made gives what it has by then, as in Node.js.
    script.push_str(&format!(
        "}};\nvar made = {{}};\nfunction require(path) {{\n  if (!made[path]) {{\n    made[path] = {{ exports: {{}} }};\n    \
         modules[path](require, made[path], made[path].exports);\n  }}\n  return made[path].exports;\n}}\n\
         return require({entry:?});\n}})();\n"
    ));
    Ok(script)
}

fn with_extension(path: String) -> String {
    if path.ends_with(".js") { path } else { path + ".js" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(modules: &[(&str, &str)]) -> Result<String, String> {
        let read = |path: &str| modules.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        of("Thing", "/x/thing.js", &read)
    }

    #[test]
    fn modules_are_followed_and_each_stands_there_once() {
        let script = made(&[
            (
                "/x/thing.js",
                "var a = require(\"./in/a\");\nvar b = require('./b.js');\nmodule.exports = a;\n//# sourceMappingURL=x",
            ),
            ("/x/in/a.js", "require(\"../b\"); exports.a = require(\"../thing\");"),
            ("/x/b.js", "exports.b = 1;"),
            ("/x/other.js", "unwanted"),
        ])
        .unwrap();
        assert!(script.starts_with("var Thing = (function () {"), "{script}");
        for wanted in [
            "\"/x/thing.js\": function (require, module, exports) {\nvar a = require(\"/x/in/a.js\");\nvar b = require(\"/x/b.js\");",
            "require(\"/x/b.js\"); exports.a = require(\"/x/thing.js\");",
            "return require(\"/x/thing.js\");\n})();\n",
        ] {
            assert!(script.contains(wanted), "{wanted}: {script}");
        }
        assert!(!script.contains("sourceMapping") && !script.contains("unwanted"), "{script}");
        assert_eq!(script.matches("exports.b = 1;").count(), 1);
    }

    #[test]
    fn a_module_that_is_missing_is_named_with_who_wants_it() {
        let told = made(&[("/x/thing.js", "require(\"./a\")")]).unwrap_err();
        assert_eq!(told, "there is no module /x/a.js, which /x/thing.js wants");
        assert!(made(&[]).unwrap_err().contains("the definition of the script"));
    }
}
