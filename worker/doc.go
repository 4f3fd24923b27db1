// Package worker runs Durable Objects written in TypeScript or JavaScript, on the same objects as Go classes
// (package actor): a Worker is one deployment of a bundle, with a class of package actor for each of its Durable
// Object classes, and an HTTP handler for its own fetch. What they do is what Cloudflare's documentation of
// Durable Objects says; docs/workers-api.md lists it.
//
// # Engines
//
// A worker has a few JavaScript engines of its own, and shares none with other workers. An object lives in one of
// them, by its id, for as long as it is in memory. Whichever goroutine has an object's turn runs the object's
// JavaScript itself, under the engine's lock. An engine in which something goes wrong that JavaScript can't be
// trusted after (its memory or its time is used up, or it has a fault) is thrown away: every object in it is
// reset, and the next event finds a new one. Nothing else of the node notices.
//
// # Turns
//
// An event of an object runs JavaScript until all that is left is to wait for what is outside of the object: a
// timer, a fetch, a call of another object. Then it gives up its turn, so that other events of the object run
// (input gate), and what it has written so far is a segment of its own. What it waited for is run by whichever
// event of the object has the turn next, since all of them share one heap: the event that wants its turn back, or,
// when there is none, one that the object delivers to itself. Reads and writes of storage never wait. In
// blockConcurrencyWhile and in transactions, waiting lets no other event in.
//
// What leaves an object (calls, fetches, its replies) leaves when everything that it has written before is durable
// (output gate, P2); that is package actor's.
package worker
