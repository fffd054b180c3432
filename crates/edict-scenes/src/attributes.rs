//! The attributes that captions name and edits change.

macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value there is.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word that names the value.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

attribute! {
    /// What the object is.
    Kind {
        /// Walls, a gable roof, a door and a window.
        House = "house",
        /// A car from the side.
        Car = "car",
        /// A round tree with a brown trunk.
        Tree = "tree",
        /// A mushroom with a dotted cap.
        Mushroom = "mushroom",
        /// A balloon on a string.
        Balloon = "balloon",
        /// A star of five points.
        Star = "star",
    }
}

attribute! {
    /// The object's colour.
    Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
        /// White.
        White = "white",
    }
}

attribute! {
    /// The sky, and with it the light on everything.
    Sky {
        /// Blue, with a yellow sun.
        Day = "day",
        /// Purple to orange, with a low red sun.
        Sunset = "sunset",
        /// Dark, with a moon and stars.
        Night = "night",
    }
}

attribute! {
    /// The land, near and far.
    Ground {
        /// Grass with round hills behind.
        Meadow = "meadow",
        /// Orange sand with dunes behind.
        Desert = "desert",
        /// Snow with pointed mountains behind.
        Snow = "snow",
        /// Pale sand with the sea behind.
        Beach = "beach",
    }
}

attribute! {
    /// How the scene is drawn: a change made to the finished plain picture.
    Style {
        /// As it is.
        Plain = "plain",
        /// Pale coloured pencil on paper, with dark outlines and hatching.
        Pencil = "pencil",
        /// Square tiles of one colour each.
        Mosaic = "mosaic",
    }
}

impl Colour {
    /// The colour in daylight, sRGB in [0, 1].
    #[must_use]
    pub const fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.88, 0.13, 0.15],
            Self::Orange => [0.98, 0.52, 0.08],
            Self::Yellow => [0.99, 0.87, 0.14],
            Self::Green => [0.06, 0.56, 0.29],
            Self::Blue => [0.13, 0.34, 0.88],
            Self::Purple => [0.52, 0.20, 0.72],
            Self::Pink => [0.98, 0.55, 0.76],
            Self::White => [0.97, 0.97, 0.97],
        }
    }
}
