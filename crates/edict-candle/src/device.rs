//! Names of devices, as they are written on a command line.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::error::{CandleError, Result};

/// Where tensors live and are computed: `cpu`, `cuda:N` or `metal`.
///
/// ```
/// use edict_candle::DeviceSpec;
///
/// assert_eq!("cuda:1".parse::<DeviceSpec>()?, DeviceSpec::Cuda(1));
/// assert_eq!(DeviceSpec::Cuda(1).to_string(), "cuda:1");
/// # Ok::<(), edict_candle::CandleError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number (feature `cuda`).
    Cuda(usize),
    /// The Apple GPU (feature `metal`).
    Metal,
}

impl DeviceSpec {
    /// Opens the device.
    ///
    /// # Errors
    /// [`CandleError::DeviceNotBuilt`] if the crate's feature for it is off, [`CandleError::DeviceUnavailable`] if the
    /// machine has no such device.
    pub(crate) fn open(self) -> Result<Device> {
        let opened = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(_) if cfg!(not(feature = "cuda")) => {
                return Err(CandleError::DeviceNotBuilt { name: "CUDA", feature: "cuda" });
            }
            Self::Metal if cfg!(not(feature = "metal")) => {
                return Err(CandleError::DeviceNotBuilt { name: "Metal", feature: "metal" });
            }
            Self::Cuda(ordinal) => Device::new_cuda(ordinal),
            Self::Metal => Device::new_metal(0),
        };
        opened.map_err(|source| CandleError::DeviceUnavailable {
            device: self.to_string(),
            source: Box::new(source),
        })
    }
}

impl FromStr for DeviceSpec {
    type Err = CandleError;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || CandleError::UnknownDevice { name: name.to_owned() };
        match name {
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            _ => {
                let number = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                number.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}
