//! A sampler's state in a file: latents for every reader, registers for the way back to the same bits.

use edict_core::{
    CoupledPair, LatticeNeighbours, LatticePair, Neighbours, Registers, Sampler, StateError, Trajectory,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::tensor_file::{TensorReader, TensorWriter};
use crate::{AnySampler, AnyState, InversionFileError};

/// Hashes every bit of registers, the carry's too: most of them do not show in the latents.
fn hash(registers: &Registers) -> u64 {
    let mut hash = Xxh3::new();
    for values in registers.values() {
        values.iter().for_each(|value| hash.update(&value.to_le_bytes()));
    }
    for plane in registers.carry() {
        plane.iter().for_each(|byte| hash.update(&[*byte]));
    }
    for (at, bits) in registers.exceptions() {
        hash.update(&(*at as u64).to_le_bytes());
        hash.update(&bits.to_le_bytes());
    }
    hash.digest()
}

/// Where in its run a state stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct StateNote {
    /// 0 at the noisy end.
    pub(crate) level: usize,
    /// The step between the two latents of a two-step sampler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
}

/// Adds a state to a file, its tensors' names beginning with `prefix`.
pub(crate) fn write_state(
    file: &mut TensorWriter,
    prefix: &str,
    sampler: &AnySampler,
    state: &AnyState,
    run: &Trajectory,
    level: usize,
) -> Result<StateNote, InversionFileError> {
    sampler.check(state, run, level)?;
    let CoupledPair { x, y } = sampler.latents(state, run)?;
    file.latents(&format!("{prefix}x"), &x);
    file.latents(&format!("{prefix}y"), &y);
    let (registers, step) = match state {
        AnyState::LatticePair(pair) => (Some(pair.registers()), None),
        AnyState::LatticeNeighbours(pair) => (Some(pair.registers()), pair.step()),
        AnyState::Neighbours(pair) => (None, pair.step()),
        AnyState::Pair(_) | AnyState::Single(_) => (None, None),
    };
    if let Some(registers) = registers {
        let [v, w] = registers.values();
        file.integers(&format!("{prefix}state.v"), v);
        file.integers(&format!("{prefix}state.w"), w);
        file.planes(&format!("{prefix}state.carry"), registers.carry(), v.shape());
        file.hashes(&format!("{prefix}state.hash"), &[hash(registers)]);
        let exceptions = registers.exceptions();
        if !exceptions.is_empty() {
            let pairs: Vec<_> =
                exceptions.iter().flat_map(|(at, bits)| [*at as u64, u64::from(*bits)]).collect();
            file.hashes(&format!("{prefix}state.exceptions"), &pairs);
        }
    }
    Ok(StateNote { level, step })
}

/// Reads a state of latents of a shape.
pub(crate) fn read_state(
    file: &TensorReader<'_>,
    prefix: &str,
    sampler: &AnySampler,
    run: &Trajectory,
    StateNote { level, step }: StateNote,
    shape: &[usize],
) -> Result<AnyState, InversionFileError> {
    let levels = run.run().len() + 1;
    if level >= levels {
        return Err(StateError::Level { level, levels }.into());
    }
    let [x_name, y_name] = ["x", "y"].map(|name| format!("{prefix}{name}"));
    let (x, y) = (file.latents_of(&x_name, shape)?, file.latents_of(&y_name, shape)?);
    let registers = || {
        let v = file.integers(&format!("{prefix}state.v"), shape)?;
        let w = file.integers(&format!("{prefix}state.w"), shape)?;
        let carry = file.planes(&format!("{prefix}state.carry"), shape)?;
        let grid = sampler.grid().unwrap_or_default();
        let registers = Registers::from_parts([v, w], carry, grid)?;
        let name = format!("{prefix}state.exceptions");
        let numbers = if file.has(&name) { file.hashes(&name)? } else { Vec::new() };
        let (pairs, rest) = numbers.as_chunks::<2>();
        let pairs =
            pairs.iter().map(|[at, bits]| Some((usize::try_from(*at).ok()?, u32::try_from(*bits).ok()?)));
        let registers = match pairs.collect::<Option<Vec<_>>>() {
            Some(pairs) if rest.is_empty() => registers.with_exceptions(pairs)?,
            _ => return Err(StateError::Registers.into()),
        };
        let name = format!("{prefix}state.hash");
        if file.hashes(&name)? != [hash(&registers)] {
            return Err(InversionFileError::Damaged { name });
        }
        Ok(registers)
    };
    let state = match sampler {
        AnySampler::LatticeEdict(_) => AnyState::LatticePair(LatticePair::new(registers()?, level)),
        AnySampler::Edict(_) => AnyState::Pair(CoupledPair { x: x.clone(), y: y.clone() }),
        AnySampler::LatticeTwoStep(_) => {
            AnyState::LatticeNeighbours(LatticeNeighbours::new(registers()?, level, step))
        }
        AnySampler::TwoStep(_) => AnyState::Neighbours(match step {
            Some(step) => Neighbours::new(x.clone(), level, y.clone(), step)?,
            None => Neighbours::alone(x.clone(), level),
        }),
        AnySampler::Ddim(_) => AnyState::Single(x.clone()),
    };
    sampler.check(&state, run, level)?;
    if sampler.is_exact() {
        let kept = sampler.latents(&state, run)?;
        for (name, kept, found) in [(x_name, &kept.x, &x), (y_name, &kept.y, &y)] {
            if kept.iter().zip(found).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Err(InversionFileError::OtherLatents { name });
            }
        }
    }
    Ok(state)
}
