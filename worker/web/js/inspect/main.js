// The inspect chunk: how console shows values, which is how Node.js shows them.

import { format, inspect } from "node-inspect-extracted";

export { format, inspect };
