//! Plain tables: columns with space between them, no lines; colours only at terminals.

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};

/// An empty table with these column names.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    match AutoStream::choice(&std::io::stdout()) {
        ColorChoice::Never => table.force_no_tty(),
        _ => table.enforce_styling(),
    };
    table.set_header(columns.iter().map(|c| Cell::new(c).add_attribute(Attribute::Bold)));
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// The table as text, without the blanks that end its lines.
pub fn text(table: &Table) -> String {
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
