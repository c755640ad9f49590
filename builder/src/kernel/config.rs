//! Configuration fragments of the kernels, and of programs that have Kconfig too: read, laid over each other, and compared
//! with what Kconfig made of them.

use std::collections::BTreeMap;

use thimble_spec::definition::Mistake;

/// One `CONFIG_X=value` of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `CONFIG_X`.
    pub option: String,
    /// `y`, `m`, `n`, a number or a string in its quotes.
    pub value: String,
    /// The fragment's file.
    pub file: String,
    /// Line in it, from 1.
    pub line: usize,
}

impl Setting {
    fn mistake(&self, message: String) -> Mistake {
        Mistake { file: self.file.clone(), line: self.line, key: self.option.clone(), message }
    }
}

/// Reads a fragment.
pub fn parse(file: &str, text: &str) -> Result<Vec<Setting>, Vec<Mistake>> {
    let (mut settings, mut mistakes) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        match setting(line.trim()) {
            Ok(None) => {}
            Ok(Some((option, value))) => settings.push(Setting {
                option: option.to_owned(),
                value: value.to_owned(),
                file: file.to_owned(),
                line: index + 1,
            }),
            Err(message) => mistakes.push(Mistake {
                file: file.to_owned(),
                line: index + 1,
                key: String::new(),
                message: message.to_owned(),
            }),
        }
    }
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
}

/// A line's option and value; the form in which Kconfig itself writes "no" is a setting too.
fn setting(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    if let Some(option) = line.strip_prefix("# CONFIG_").and_then(|_| line[2..].strip_suffix(" is not set")) {
        return Ok(Some((option, "n")));
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (option, value) = line.split_once('=').ok_or("write CONFIG_NAME=value, or # before a comment")?;
    let name = option.strip_prefix("CONFIG_").ok_or("write CONFIG_NAME=value: options start with CONFIG_")?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("an option's name has letters, digits and _ only");
    }
    match value {
        "" => Err("a value is missing: y, m, n, a number or a string in double quotes"),
        _ => Ok(Some((option, value))),
    }
}

/// Lays settings over each other: the last of each option stands, in the order of the names.
pub fn merge(settings: impl IntoIterator<Item = Setting>) -> Vec<Setting> {
    let merged: BTreeMap<String, Setting> =
        settings.into_iter().map(|setting| (setting.option.clone(), setting)).collect();
    merged.into_values().collect()
}

/// Text for Kconfig: `base` without what the settings decide, and the settings.
pub fn render(base: &str, settings: &[Setting]) -> String {
    let decided = |line: &&str| match setting(line) {
        Ok(Some((option, _))) => settings.binary_search_by(|setting| setting.option.as_str().cmp(option)).is_err(),
        _ => true,
    };
    let kept = base.lines().filter(decided).map(str::to_owned);
    let ours = settings.iter().map(|Setting { option, value, .. }| match value.as_str() {
        "n" => format!("# {option} is not set"),
        value => format!("{option}={value}"),
    });
    kept.chain(ours).map(|line| line + "\n").collect()
}

/// Settings that make modules, of a kernel that loads none: each is a mistake of its fragment.
pub fn modular(settings: &[Setting]) -> Vec<Mistake> {
    let modular = settings.iter().filter(|setting| setting.value == "m");
    modular.map(|setting| setting.mistake("guests load no modules: use y or n".to_owned())).collect()
}

/// Settings that Kconfig did not take over when `command` completed them: each is a mistake of its fragment.
pub fn lost(settings: &[Setting], result: &str, command: &str) -> Vec<Mistake> {
    let result: BTreeMap<&str, &str> = result.lines().filter_map(|line| setting(line).ok().flatten()).collect();
    let lost = settings.iter().filter_map(|setting| {
        let found = result.get(setting.option.as_str()).copied().unwrap_or("n");
        let wanted = setting.value.as_str();
        // What others of the kernel use from within cannot be a module: it is there all the same.
        let taken = found == wanted || (wanted, found) == ("m", "y");
        (!taken).then(|| {
            let known = result.contains_key(setting.option.as_str());
            let reason =
                if known { "a dependency decides otherwise" } else { "no such option, or a dependency is missing" };
            setting.mistake(format!("{wanted} did not survive `{command}`, which makes it {found}: {reason}"))
        })
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str = "# comment\n\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_S=\"x y\"\n# CONFIG_C is not set\nCONFIG_N=2\n";

    #[test]
    fn a_later_fragment_wins() {
        let over = parse("over", "CONFIG_B=y\n").unwrap();
        let merged = merge(parse("base", FRAGMENT).unwrap().into_iter().chain(over));
        assert_eq!(
            render("CONFIG_A=n\nCONFIG_Z=y\n# CONFIG_B is not set\n# section\n", &merged),
            "CONFIG_Z=y\n# section\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_N=2\nCONFIG_S=\"x y\"\n"
        );
    }

    #[test]
    fn what_did_not_survive_is_told_by_fragment_and_line() {
        let settings = merge(parse("base.config", FRAGMENT).unwrap());
        let survived = "CONFIG_A=y\nCONFIG_S=\"x y\"\n# CONFIG_C is not set\nCONFIG_N=2\n";
        assert!(lost(&settings, survived, "make olddefconfig").is_empty(), "an option that is not there is off");
        let told: Vec<String> = lost(&settings, "CONFIG_B=y\nCONFIG_N=4\nCONFIG_S=\"x y\"\n", "make olddefconfig")
            .iter()
            .map(|mistake| mistake.to_string())
            .collect();
        assert_eq!(
            told,
            [
                "base.config:3: CONFIG_A: y did not survive `make olddefconfig`, which makes it n: no such option, or a \
                 dependency is missing",
                "base.config:4: CONFIG_B: n did not survive `make olddefconfig`, which makes it y: a dependency decides \
                 otherwise",
                "base.config:7: CONFIG_N: 2 did not survive `make olddefconfig`, which makes it 4: a dependency decides \
                 otherwise",
            ]
        );
    }

    #[test]
    fn a_module_may_become_part_of_the_kernel_and_guests_have_none() {
        let settings = merge(parse("host.config", "CONFIG_A=y\nCONFIG_M=m\n").unwrap());
        assert!(lost(&settings, "CONFIG_A=y\nCONFIG_M=y\n", "make").is_empty());
        assert_eq!(lost(&settings, "CONFIG_A=m\nCONFIG_M=m\n", "make").len(), 1);
        let told: Vec<String> = modular(&settings).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["host.config:2: CONFIG_M: guests load no modules: use y or n"]);
    }

    #[test]
    fn a_line_that_is_no_setting_is_a_mistake() {
        for line in ["A=y", "CONFIG_A", "CONFIG_=y", "CONFIG_A=", "CONFIG_A B=y"] {
            assert_eq!(parse("f", &format!("\n{line}\n")).unwrap_err()[0].line, 2, "{line}");
        }
    }
}
