//! Who is compared.

/// A program and what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// The algorithm as the process knows it.
    pub(crate) algorithm: &'static str,
    /// The networks' precision, where it is not that of the others.
    pub(crate) dtype: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// This one, on a back end.
    Edict(&'static str),
    /// `benches/compare/peer.py`.
    Python,
}

impl Contestant {
    pub(crate) fn is_python(&self) -> bool {
        self.program == Program::Python
    }
}

/// The name of whom ratios are formed to.
pub(crate) const REFERENCE: &str = "community pipeline's";

/// Others to whom an edit's time is put in ratio: the authors' program, with the networks in f32 and as published.
pub(crate) const AUTHORS: [&str; 2] = ["authors' in f32", "authors'"];

/// All of them.
///
/// The community pipeline asks about both prompts in one call, in the network's precision; the authors' program in two calls, with
/// everything in f64 (in f32 it stands here to tell what is the algorithm's and what the precision's).
pub(crate) fn contestants() -> Vec<Contestant> {
    let edict = |name, backend, algorithm| Contestant {
        name,
        program: Program::Edict(backend),
        algorithm,
        dtype: None,
    };
    let python = |name, algorithm, dtype| Contestant { name, program: Program::Python, algorithm, dtype };
    vec![
        edict("candle", "candle", "edict"),
        edict("candle, O-BELM", "candle", "belm"),
        edict("tch", "tch", "edict"),
        edict("tch, O-BELM", "tch", "belm"),
        python(REFERENCE, "community", None),
        python(AUTHORS[0], "authors", Some("f32")),
        python(AUTHORS[1], "authors", Some("f64")),
    ]
}
