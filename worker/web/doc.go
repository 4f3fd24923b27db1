// Package web is the web platform that workers lean on, for the JavaScript engine of worker/quickjs: fetch and its classes,
// URL, streams, text encodings, cryptography, timers, events, console, and modules of Node.js. docs/workers-api.md says what
// is there and what is not.
//
// Most of it is JavaScript (js/), bundled with pinned packages from npm by go generate into dist/. The core is evaluated by
// Install in each engine, the other scripts when a worker first touches what they have; all are compiled once per
// process. What JavaScript is bad at, or cannot do, are functions of Go's that it calls.
//
// # The seam
//
// The platform starts no event and knows no object. What takes time is an operation: JavaScript calls a function of Go's,
// which has Host.Begin note whose operation it is, and goes on; when the operation has ended, on any goroutine, Op.Settle
// hands over what is to run in the engine. Timers work alike by StartTimer and Platform.FireTimer. So whoever implements Host
// decides in which object's event things go on, and behind which gates.
//
// Platform.Request and Platform.Response make JavaScript's objects of messages that arrive, and Platform.Take takes those
// apart that leave. Bodies are bytes, or streams that are read as the other side asks for more.
package web
