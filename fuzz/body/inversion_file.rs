//! What must hold of any bytes; libFuzzer runs this, and so does a test that mutates files.

use edict_stable_diffusion::{Checkpoint, Inversion, InversionFileError};

/// What bytes were found to be.
pub struct Found {
    pub inversion: Result<Inversion, InversionFileError>,
    pub checkpoint: Result<Checkpoint, InversionFileError>,
}

/// Reads bytes: no panic, and what is accepted can be used, is written, and is read again as the same.
pub fn check(bytes: &[u8]) -> Found {
    let found = Found { inversion: Inversion::from_bytes(bytes), checkpoint: Checkpoint::from_bytes(bytes) };
    assert!(found.inversion.is_err() || found.checkpoint.is_err(), "an inversion and a checkpoint");
    if let Ok(read) = &found.inversion {
        let written = read.to_bytes().expect("an inversion that was read can be written");
        let again = Inversion::from_bytes(&written).expect("an inversion that was written can be read");
        assert_eq!(again, *read);
        // Equality of floats does not see the sign of zero.
        assert!(again.to_bytes().expect("and written again") == written);
        read.latents().expect("an inversion that was read has latents");
    }
    if let Ok(read) = &found.checkpoint {
        let written = read.to_bytes().expect("a checkpoint that was read can be written");
        let again = Checkpoint::from_bytes(&written).expect("a checkpoint that was written can be read");
        assert_eq!(again, *read);
        let Inversion { trajectory, sampler, .. } = &read.inversion;
        trajectory.split_at(read.level).expect("the inversion stands within its run");
        read.inversion.latents().expect("the inversion has latents");
        if let Some(generation) = &read.generation {
            assert!(generation.finished < generation.prompts.len());
            if let Some((state, level)) = &generation.state {
                trajectory.split_at(*level).expect("the picture stands within its run");
                sampler.latents(state, trajectory).expect("the picture has latents");
            }
        }
    }
    found
}
