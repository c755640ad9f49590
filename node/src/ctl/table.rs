//! Tables for people, and what stands in them.

use thimble_spec::api::task::Task;

/// Lines with columns as wide as what is in them, below a head.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!(" {}\n", padded.join("   ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 3 * widths.len()));
    text.push('\n');
    rows.iter().for_each(|row| text.push_str(&line(&mut row.iter().map(String::as_str))));
    text
}

/// Names and values, one a line.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{:width$} {value}\n", format!("{name}:"))).collect()
}

/// What may be missing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// How far a task is, in a word.
pub fn state(task: &Task) -> String {
    format!("{:?}", task.state).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [vec!["512".to_owned(), "web1".to_owned()], vec!["-".to_owned(), "a-longer-one".to_owned()]];
        let text = " Id    Name\n---------------------\n 512   web1\n -     a-longer-one\n";
        assert_eq!(table(&["Id", "Name"], &rows), text);
        assert_eq!(pairs(&[("Name", "web1".to_owned()), ("CPU(s)", "1".to_owned())]), "Name:   web1\nCPU(s): 1\n");
    }
}
