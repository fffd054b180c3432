//! The commands that the README and other pages tell their readers to paste.

use std::path::PathBuf;

/// Stands on a line above the fenced block with the test command.
pub(crate) const MARKER: &str = "<!-- test-command -->";

/// Finds the test command: the one line of the first fenced block below [`MARKER`], in words.
///
/// # Errors
/// A sentence that says what the README lacks.
pub(crate) fn test_command(readme: &str) -> Result<Vec<String>, String> {
    let mut lines = readme.lines().map(str::trim);
    if !lines.any(|line| line == MARKER) {
        return Err(format!("README.md has no line `{MARKER}`"));
    }
    let fence = lines.find(|line| !line.is_empty()).filter(|line| line.starts_with("```"));
    if fence.is_none() {
        return Err(format!("README.md has no fenced block right below `{MARKER}`"));
    }
    let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
    let commands: Vec<&str> =
        block.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let [command] = commands.as_slice() else {
        return Err(format!("README.md should have one command below `{MARKER}`, found {}", commands.len()));
    };
    // It is started without a shell, so a line that needs one would do something else than when it is pasted.
    if let Some(special) = command.chars().find(|c| "|&;<>$`\"'\\*?(){}~#=".contains(*c)) {
        return Err(format!(
            "the README's test command should need no shell, found `{special}` in `{command}`"
        ));
    }
    Ok(command.split_whitespace().map(str::to_owned).collect())
}

/// Finds the first command of all: the one line of the first fenced block, in words as a shell would split them.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn first_command(readme: &str) -> Result<Vec<String>, String> {
    let mut lines = readme.lines().map(str::trim).skip_while(|line| !line.starts_with("```")).skip(1);
    let (Some(command), Some("```")) = (lines.next(), lines.next()) else {
        return Err("README.md should begin with a fenced block of one command".to_owned());
    };
    let words = split(command);
    if words.first().is_none_or(|word| word != "cargo") || command.contains(['\\', '$', '\'', '|', '&', ';'])
    {
        return Err(format!(
            "the README's first command should be cargo's and need no shell, found `{command}`"
        ));
    }
    Ok(words)
}

/// Splits a command into words; double quotes are all the shell there is in it.
fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in command.split('"').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Finds the calls of `edict` in a page's fenced blocks, each as the words after the program's name.
pub(crate) fn edict_commands(page: &str) -> Vec<Vec<String>> {
    const PROGRAM: [&str; 2] = ["edict ", "cargo run --release -p edict-cli -- "];
    let mut commands = Vec::new();
    for block in page.split("```").skip(1).step_by(2) {
        // A line that ends in a backslash goes on in the next.
        for line in block.replace("\\\n", " ").lines() {
            let called = PROGRAM.iter().find_map(|program| line.trim().strip_prefix(program));
            commands.extend(called.map(split));
        }
    }
    commands
}

/// Puts the files that a call of `edict` writes where `place` says, and returns where.
pub(crate) fn redirect(words: &mut [String], place: impl Fn(&str) -> PathBuf) -> Vec<PathBuf> {
    let mut placed = Vec::new();
    for at in 1..words.len() {
        if ["--output", "--sheet", "--plot"].contains(&words[at - 1].as_str()) {
            let path = place(&words[at]);
            words[at] = path.to_string_lossy().into_owned();
            placed.push(path);
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_command_below_the_marker() {
        let readme = "# x\n```sh\ncargo run\n```\n<!-- test-command -->\n\n```sh\n# every test\ncargo xtask test\n```\n";
        assert_eq!(test_command(readme), Ok(vec!["cargo".into(), "xtask".into(), "test".into()]));
    }

    #[test]
    fn splits_the_first_command_at_spaces_and_quotes() {
        let readme = "# x\n\n```sh\ncargo run -- --source \"a photo\" --quiet\n```\n";
        assert_eq!(first_command(readme).unwrap(), ["cargo", "run", "--", "--source", "a photo", "--quiet"]);
        assert!(first_command("```sh\ncargo run | tee x\n```").is_err());
        assert!(first_command("```sh\ncargo run\ncargo run\n```").is_err());
        assert!(first_command("none").is_err());
    }

    #[test]
    fn finds_the_calls_of_edict_in_fenced_blocks_alone() {
        let page = "edict is a program\n```sh\nls\nedict info --model \"a b\"\n```\nedict no\n```sh\nedict edit \\\n  --json\n```\n";
        assert_eq!(edict_commands(page), [vec!["info", "--model", "a b"], vec!["edit", "--json"]]);
    }

    #[test]
    fn outputs_are_put_elsewhere_and_other_words_kept() {
        let mut words: Vec<_> =
            ["edit", "--target", "x", "--output", "a.png", "--sheet", "b.png"].map(str::to_owned).into();
        let placed = redirect(&mut words, |name| PathBuf::from(format!("there-{name}")));
        assert_eq!(words, ["edit", "--target", "x", "--output", "there-a.png", "--sheet", "there-b.png"]);
        assert_eq!(placed, [PathBuf::from("there-a.png"), PathBuf::from("there-b.png")]);
    }

    #[test]
    fn says_what_is_missing() {
        for (readme, wanted) in [
            ("```sh\ncargo xtask test\n```", "no line"),
            ("<!-- test-command -->\ncargo xtask test\n", "no fenced block"),
            ("<!-- test-command -->\n```sh\n```\n", "found 0"),
            ("<!-- test-command -->\n```sh\na\nb\n```\n", "found 2"),
            ("<!-- test-command -->\n```sh\na && b\n```\n", "no shell"),
        ] {
            let error = test_command(readme).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
