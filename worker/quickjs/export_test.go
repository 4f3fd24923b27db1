package quickjs

// Corrupt makes the engine fault when it uses v, an object.
func Corrupt(v Value) {
	_, raw, err := v.use()
	if err != nil {
		panic(err)
	}
	// The shape of the object, which is its second pointer after two links.
	*at[uintptr](pointerOf(raw) + 24) = 0x10
}
