// What Go gives. Every function of it that has an object's number, o, refuses when that object does not
// have the turn: nothing of one object can be done from another's event.
export let host;

export function setHost(given) {
	host = given;
}

// text makes of anything the string that it is stored and sent as: well-formed, so that every key is
// UTF-8.
export function text(v) {
	return String(v).toWellFormed();
}
