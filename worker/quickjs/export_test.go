package quickjs

import lib "modernc.org/libquickjs"

// Corrupt makes the engine fault when it uses v, an object.
func Corrupt(v Value) {
	_, raw, err := v.use()
	if err != nil {
		panic(err)
	}
	// No memory is there.
	at[lib.TJSObject](pointerOf(raw)).Fshape = 1 << 40
}
