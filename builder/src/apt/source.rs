//! Source packages: the same sources, asked for what their packages were compiled from.
//!
//! A machine's configuration mostly names the compiled packages alone (`deb`). Ours is a copy that names the sources
//! (`deb-src`) at the same places, with the same keys.

use super::Package;

/// What stands before the name of a source package, here and in `thimble.lock`, as apt has it: a binary package may have the
/// same name.
const PREFIX: &str = "src:";

/// The tree in the directory that a source package is unpacked into.
pub const TREE: &str = "tree";

/// The name of a source package where others are binary ones.
pub fn named(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The bare name, of a source package.
pub fn bare(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// A file of apt's configuration (sources.list(5), one line a source or deb822 stanzas) with the sources in place of the
/// compiled packages.
pub fn sources_of(text: &str) -> String {
    text.lines().map(|line| source_line(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn source_line(line: &str) -> Option<String> {
    if let Some((field, _)) = line.split_once(':')
        && field.eq_ignore_ascii_case("types")
    {
        return Some("Types: deb-src".to_owned());
    }
    let rest = line.trim_start().strip_prefix("deb")?;
    rest.starts_with([' ', '\t']).then(|| format!("deb-src{rest}"))
}

/// The name of the description (`NAME_VERSION.dsc`) that `apt-get source --print-uris` would fetch: lines are an address in
/// quotes, a file's name, its size and a hash.
pub fn chosen(printed: &str) -> Option<&str> {
    let files = printed.lines().filter(|line| line.starts_with('\'')).filter_map(|line| line.split(' ').nth(1));
    files.into_iter().find(|name| name.ends_with(".dsc"))
}

/// The package of a description, from what `apt-cache showsrc` says. Its hash is the description's, which has those of all
/// its files; its size is that of all of them.
pub fn parse(shown: &str, description: &str) -> Option<Package> {
    shown.split("\n\n").find_map(|text| {
        let files = files(text);
        let (sha256, ..) = files.iter().find(|(_, _, name)| *name == description)?;
        let package = super::stanza(text);
        Some(Package {
            name: named(&package.name),
            version: package.version,
            section: package.section,
            depends: Vec::new(),
            sha256: (*sha256).to_owned(),
            size: files.iter().map(|(_, size, _)| size).sum(),
        })
    })
}

/// Hash, size and name of each file.
fn files(stanza: &str) -> Vec<(&str, u64, &str)> {
    let lines = stanza.lines().skip_while(|line| *line != "Checksums-Sha256:").skip(1);
    lines.map_while(file).collect()
}

fn file(line: &str) -> Option<(&str, u64, &str)> {
    let mut words = line.strip_prefix(' ')?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_where_the_packages_do() {
        let list = "# deb is a type\ndeb [signed-by=/k.gpg] https://a.example/debian x main\n deb\thttps://b.example x main\n\
                    deb-src https://a.example/debian x main\ndebris\n";
        assert_eq!(
            sources_of(list),
            "# deb is a type\ndeb-src [signed-by=/k.gpg] https://a.example/debian x main\n\
             deb-src\thttps://b.example x main\ndeb-src https://a.example/debian x main\ndebris\n"
        );
        assert_eq!(
            sources_of("Types: deb deb-src\nURIs: https://a.example\nSigned-By: /k.gpg\n"),
            "Types: deb-src\nURIs: https://a.example\nSigned-By: /k.gpg\n"
        );
    }

    #[test]
    fn the_version_is_the_one_that_apt_would_fetch() {
        let stanza = |version: &str, hash: &str| {
            format!(
                "Package: dropbear\nVersion: 1:{version}\nSection: net\nFiles:\n 00 9 dropbear_{version}.dsc\n\
                 Checksums-Sha256:\n {hash} 20 dropbear_{version}.dsc\n ee 3000 dropbear.tar.xz\nDirectory: x\n"
            )
        };
        let shown = format!("{}\n{}\n", stanza("1-1", "aa"), stanza("1-1+deb12u3", "bb"));
        let printed = "Reading package lists...\nNOTICE: 'dropbear' packaging is maintained in 'Git' at:\n\
                       'https://a.example/x.tar.xz' dropbear.tar.xz 3000 SHA256:ee\n\
                       'https://a.example/x.dsc' dropbear_1-1+deb12u3.dsc 20 SHA256:bb\n";
        let package = parse(&shown, chosen(printed).unwrap()).unwrap();
        assert_eq!(package.exact(), "src:dropbear=1:1-1+deb12u3");
        assert_eq!((package.sha256.as_str(), package.size, package.section.as_str()), ("bb", 3020, "net"));
        assert_eq!(bare(&package.name), Some("dropbear"));
        assert_eq!(chosen("Reading package lists...\n"), None);
    }
}
