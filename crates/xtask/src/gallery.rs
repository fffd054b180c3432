//! `cargo xtask gallery`: makes the pictures that the pages show, by the commands that the pages show beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::{cargo, readme, root};

const PAGES: [&str; 2] = ["README.md", "docs/gallery.md"];

pub(crate) fn run() -> ExitCode {
    match make() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn make() -> Result<(), String> {
    let read = |page: &str| {
        fs::read_to_string(root().join(page)).map_err(|error| format!("{page} cannot be read: {error}"))
    };
    let pages = PAGES.map(read).into_iter().collect::<Result<Vec<_>, _>>()?;
    let shown: BTreeSet<String> = pages.iter().flat_map(|page| shown(page)).collect();
    let commands = commands(&pages, &shown)?;
    // What a command writes beside what is shown goes where it is in nobody's way.
    let (images, others) = (root().join("docs/images"), root().join("target/gallery"));
    for folder in [&images, &others] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let place = |name: &str| if shown.contains(name) { images.join(name) } else { others.join(name) };
    let mut total = 0;
    for mut words in commands {
        println!("edict {}", words.join(" "));
        let written = readme::redirect(&mut words, place);
        let mut arguments = vec!["run", "--release", "--quiet", "-p", "edict-cli", "--"];
        arguments.extend(words.iter().map(String::as_str));
        arguments.push("--quiet");
        let status = cargo(&arguments).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("edict {}: {status}", words.join(" ")));
        }
        for path in written.iter().filter(|path| path.starts_with(&images)) {
            let bytes = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len();
            println!("    {}: {} KB", path.display(), bytes.div_ceil(1000));
            total += bytes;
        }
    }
    println!("{} pictures, {} KB", shown.len(), total.div_ceil(1000));
    Ok(())
}

/// Names of the pictures in `docs/images` that a page shows.
fn shown(page: &str) -> Vec<String> {
    let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links
        .filter_map(|link| link.strip_prefix("docs/images/").or_else(|| link.strip_prefix("images/")))
        .map(str::to_owned)
        .collect()
}

/// Finds the commands that make the pictures shown, without the program's name.
///
/// # Errors
/// A sentence that names a picture that no command makes, or two.
fn commands(pages: &[String], shown: &BTreeSet<String>) -> Result<Vec<Vec<String>>, String> {
    let mut found = Vec::new();
    let mut missing = shown.clone();
    for words in pages.iter().flat_map(|page| readme::edict_commands(page)) {
        let mut copy = words.clone();
        let outputs = readme::redirect(&mut copy, |name| PathBuf::from(name));
        let names: Vec<_> = outputs
            .iter()
            .map(|path| path.display().to_string())
            .filter(|name| shown.contains(name))
            .collect();
        for name in &names {
            if !missing.remove(name) {
                return Err(format!("docs/images/{name} is made by two commands"));
            }
        }
        if !names.is_empty() {
            found.push(words);
        }
    }
    match missing.first() {
        Some(name) => {
            Err(format!("docs/images/{name} is shown, and no command of {} makes it", PAGES.join(" or ")))
        }
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "![a sheet](docs/images/sheet.png)\n```sh\ncargo run --release -p edict-cli -- edit --target \"a blue \
                          house\" --output edited.png --sheet sheet.png\nedict info\n```\n";

    fn plan(pages: &[&str]) -> Result<Vec<Vec<String>>, String> {
        let pages: Vec<_> = pages.iter().map(|page| (*page).to_owned()).collect();
        let shown = pages.iter().flat_map(|page| shown(page)).collect();
        commands(&pages, &shown)
    }

    #[test]
    fn the_commands_that_make_what_is_shown_are_run_and_no_others() {
        let gallery = "![](images/grid.png) [a link](models.md)\n```sh\nedict sweep --target x \\\n  --output grid.png\n```\n";
        assert_eq!(
            plan(&[README, gallery]).unwrap(),
            [
                vec!["edit", "--target", "a blue house", "--output", "edited.png", "--sheet", "sheet.png"],
                vec!["sweep", "--target", "x", "--output", "grid.png"]
            ]
        );
        assert_eq!(plan(&["nothing\n"]), Ok(vec![]));
    }

    #[test]
    fn every_picture_of_the_pages_is_there_and_has_its_command() {
        let pages = PAGES.map(|page| fs::read_to_string(root().join(page)).unwrap());
        let shown: BTreeSet<_> = pages.iter().flat_map(|page| shown(page)).collect();
        assert!(shown.contains("sheet.png"), "{shown:?}");
        commands(&pages, &shown).unwrap();
        for name in shown {
            assert!(root().join("docs/images").join(&name).is_file(), "{name}");
        }
    }

    #[test]
    fn a_picture_that_no_command_makes_or_two_is_told() {
        let error = plan(&[README, "![](images/other.png)"]).unwrap_err();
        assert!(error.contains("other.png"), "{error}");
        let error = plan(&[README, README]).unwrap_err();
        assert!(error.contains("sheet.png is made by two"), "{error}");
    }
}
