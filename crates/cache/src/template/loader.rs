//! Reads a folder of templates.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::error::TemplateError;

/// Reads every file below a folder. Names are relative to it, with `/` on every system.
///
/// Files and folders whose name starts with a dot are left out, and so are backups of editors (`page.html~`).
///
/// # Errors
/// A file cannot be read or is not UTF-8; the error names it.
pub(super) fn read(directory: &Path) -> Result<BTreeMap<String, String>, TemplateError> {
    let mut sources = BTreeMap::new();
    walk(directory, "", &mut Vec::new(), &mut sources)?;
    Ok(sources)
}

/// `above` are the folders on the way here, to notice a link that leads back to one of them.
fn walk(
    directory: &Path,
    prefix: &str,
    above: &mut Vec<PathBuf>,
    sources: &mut BTreeMap<String, String>,
) -> Result<(), TemplateError> {
    let real = directory.canonicalize().map_err(|error| unreadable(directory, error))?;
    if above.contains(&real) {
        return Err(TemplateError::new("this link leads back to a folder that it is in; remove it")
            .in_file(&directory.display().to_string()));
    }
    above.push(real);
    for path in children(directory).map_err(|error| unreadable(directory, error))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(
                TemplateError::new("the name of the file is not UTF-8; rename it").in_file(&path.display().to_string())
            );
        };
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            walk(&path, &format!("{name}/"), above, sources)?;
        } else {
            let source = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            sources.insert(name, source);
        }
    }
    above.pop();
    Ok(())
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, error: io::Error) -> TemplateError {
    let mut help = "check that the path is right and may be read";
    if error.kind() == io::ErrorKind::InvalidData {
        help = "only text belongs in the folder of templates; move this file to another";
    }
    TemplateError::new(format!("the templates cannot be read: {error}"))
        .in_file(&path.display().to_string())
        .with_help(help)
        .caused_by(Some(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_with_slashes_and_hidden_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("objects/parts")).unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        for name in ["base.html", "objects/list.txt", "objects/parts/_row.html", ".hidden", ".git/x", "base.html~"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let sources = read(folder.path()).unwrap();
        assert_eq!(sources.keys().collect::<Vec<_>>(), ["base.html", "objects/list.txt", "objects/parts/_row.html"]);
        assert_eq!(sources["objects/parts/_row.html"], "objects/parts/_row.html");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_unless_they_lead_back() {
        let (folder, theme) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(theme.path().join("base.html"), "").unwrap();
        std::os::unix::fs::symlink(theme.path(), folder.path().join("theme")).unwrap();
        assert_eq!(read(folder.path()).unwrap().keys().collect::<Vec<_>>(), ["theme/base.html"]);
        std::os::unix::fs::symlink(folder.path(), theme.path().join("back")).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("theme/back"), "{error}");
    }

    #[test]
    fn a_missing_folder_and_a_picture_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(&folder.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        fs::write(folder.path().join("logo.png"), [0xff, 0xfe, 0]).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("logo.png") && error.help().unwrap().contains("only text"), "{error}");
    }
}
