package flamegraph

// Invert makes the call tree upside down: below the root each function with the value of the stacks that end in it,
// below each the functions that call it. A value stands at the outermost frame of its stack. Options.Root is a path
// from the innermost function. The error is [ErrTooLarge].
func Invert(s *Stacks, o Options) (*Graph, error) {
	sides := o.sides(s)
	t := newTree(o.rootName(), len(sides))
	for i, sd := range sides {
		if err := t.addInverted(i, sd, o.Root); err != nil {
			return nil, err
		}
	}
	t.finish(&o, sides...)
	return t.graph(&o), nil
}

func (t *tree) addInverted(to int, s *Stacks, root []string) error {
	functionOf := t.functionsOf(s)
	if len(root) == 0 {
		t.sides[to].self[0] += s.root
	}
	for i, value := range s.self {
		if value == 0 {
			continue
		}
		node, left := int32(0), root
		for p := int32(i); p >= 0; p = s.parent[p] {
			fn := functionOf[s.labels[p]]
			if len(left) == 0 {
				node = t.child(node, fn)
				continue
			}
			if t.functions[fn].name != left[0] {
				break
			}
			if left = left[1:]; len(left) == 0 {
				t.found(fn)
			}
		}
		if len(left) == 0 {
			t.sides[to].self[node] += value
		}
		if len(t.parent) > maxCallers {
			return ErrTooLarge
		}
	}
	return nil
}
