// Package bundle turns a wrangler project, a folder of TypeScript or JavaScript written for
// Cloudflare's Workers, into a Bundle: one ES module with its source map, the Durable Object
// classes it has, what they are bound to, and which of them have come and gone. It reads
// wrangler.toml, wrangler.json and wrangler.jsonc with wrangler's rules, bundles with esbuild, and
// says what it does not understand, with file and line. It runs no code of the project.
//
// A Bundle is what a cluster stores and a deployment sends: Encode and Decode have its one format,
// written down in docs/format/bundle.md, and Hash names its content. The same files give the same
// bytes, wherever they lie.
//
// All functions are safe for concurrent use; a Bundle is not to be changed once it is shared.
package bundle
