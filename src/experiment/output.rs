//! The files of an experiment: picture, table and text. Each file is written whole or not at all.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::picture::Picture;

pub struct Report {
    pub name: &'static str,
    pub picture: Picture,
    pub csv: String,
    /// A paragraph or a table, in Markdown.
    pub text: String,
}

/// Creates the folder before anything is measured, so that one that cannot be written to is reported at once.
pub fn prepare(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|why| cannot("create", folder, &why))?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, b"").map_err(|why| cannot("write into", folder, &why))?;
    fs::remove_file(&probe).map_err(|why| cannot("write into", folder, &why))
}

/// Writes all files of a report, or replaces none: all are complete before the first is renamed into place.
pub fn write(folder: &Path, report: &Report) -> Result<(), String> {
    let name = report.name;
    let text = format!("# {name}\n\n![{name}]({name}.svg)\n\n{}\n", report.text.trim_end());
    let files: [(&str, &[u8]); 4] = [
        ("svg", report.picture.svg.as_bytes()),
        ("png", &report.picture.png),
        ("csv", report.csv.as_bytes()),
        ("md", text.as_bytes()),
    ];
    let staged = files.map(|(kind, bytes)| {
        let (path, staged) = (folder.join(format!("{name}.{kind}")), folder.join(format!(".{name}.{kind}.new")));
        (bytes, staged, path)
    });
    let written = staged.iter().try_for_each(|(bytes, staged, _)| fs::write(staged, bytes));
    let renamed = written.and_then(|()| staged.iter().try_for_each(|(_, staged, path)| fs::rename(staged, path)));
    renamed.map_err(|why| {
        staged.iter().for_each(|(_, staged, _)| drop(fs::remove_file(staged)));
        cannot("write into", folder, &why)
    })
}

fn cannot(what: &str, folder: &Path, why: &std::io::Error) -> String {
    let hint = match why.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            ": give another with --out DIR"
        }
        _ => "",
    };
    format!("cannot {what} {}: {why}{hint}", folder.display())
}

/// Rows as CSV (RFC 4180): a field with a comma, quote or line end is quoted.
pub fn csv<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |fields: Vec<String>| fields.join(",") + "\r\n";
    let rows = rows.into_iter().map(|row| line(row.iter().map(|field| quoted(field)).collect()));
    line(head.map(String::from).to_vec()) + &rows.collect::<String>()
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

/// Rows as a Markdown table.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |fields: &[String]| format!("| {} |\n", fields.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(N));
    let rows = rows.into_iter().map(|row| line(&row.map(|field| field.replace('|', "\\|"))));
    line(&head.map(String::from)) + &rule + &rows.collect::<String>()
}

pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            name: "spread",
            picture: Picture { svg: "<svg/>".into(), png: vec![1, 2] },
            csv: csv(["a", "b"], [["1".into(), "x,\"y\"".into()]]),
            text: table(["call"], [["a|b".into()]]),
        }
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_report_is_four_files_and_nothing_else() {
        let folder = folder("report");
        prepare(&folder).unwrap();
        write(&folder, &report()).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["spread.csv", "spread.md", "spread.png", "spread.svg"]);
        assert_eq!(fs::read_to_string(folder.join("spread.csv")).unwrap(), "a,b\r\n1,\"x,\"\"y\"\"\"\r\n");
        assert!(fs::read_to_string(folder.join("spread.md")).unwrap().contains("| a\\|b |"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_ones() {
        let folder = folder("old");
        prepare(&folder).unwrap();
        fs::write(folder.join("spread.svg"), "old").unwrap();
        fs::create_dir(folder.join(".spread.md.new")).unwrap();
        assert!(write(&folder, &report()).unwrap_err().contains("cannot write"));
        assert_eq!(fs::read_to_string(folder.join("spread.svg")).unwrap(), "old");
        assert!(!folder.join("spread.png").exists() && !folder.join(".spread.png.new").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused_in_one_line() {
        let file = folder("file");
        fs::write(&file, "").unwrap();
        let why = prepare(&file.join("x")).unwrap_err();
        assert!(why.contains("--out DIR") && !why.contains('\n'), "{why}");
        fs::remove_file(&file).unwrap();
    }
}
