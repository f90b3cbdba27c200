//! Manual pages, made from the command line's definition: one for `ringway`, and one for each subcommand that `--help`
//! lists.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args;

/// The page of `ringway` itself, in troff.
pub fn page() -> String {
    roff(&built())
}

/// Writes all pages into a folder, which is made if it is missing. The names of the pages are those of their commands.
pub fn write(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    write_with_subcommands(&built(), folder)
}

/// `help` is left out: its page would say what every other one says.
fn built() -> Command {
    let mut command = args::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_with_subcommands(command: &Command, folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join(format!("{}.1", page_name(command))), roff(command))?;
    let mut listed = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    listed.try_for_each(|subcommand| write_with_subcommands(subcommand, folder))
}

fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn roff(command: &Command) -> String {
    let source = concat!("ringway ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).title(page_name(command)).source(source).manual("Ringway");
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = write_sections(&page, command, &mut text);
    // An empty date needs its quotes, and the section a usual name.
    let text = String::from_utf8_lossy(&text).replacen(" 1  \"", " 1 \"\" \"", 1);
    text.replace("\n.SH EXTRA\n", "\n.SH NOTES\n")
}

/// Those of `Man::render`, but for a synopsis as short as that of `--help`: one that names each flag fills a screen.
fn write_sections(page: &Man, command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    page.render_title(out)?;
    page.render_name_section(out)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().map(str::trim);
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    for line in usage {
        synopsis.text([roman(line)]).control("br", []);
    }
    synopsis.to_writer(out)?;
    page.render_description_section(out)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        page.render_options_section(out)?;
    }
    if command.get_subcommands().any(|subcommand| !subcommand.is_hide_set()) {
        page.render_subcommands_section(out)?;
    }
    if command.get_after_long_help().or(command.get_after_help()).is_some() {
        page.render_extra_section(out)?;
    }
    Ok(())
}
