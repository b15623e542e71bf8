package symbolize

import (
	"strings"
	"testing"
)

func TestDemangled(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"main", "main"},
		{"read@@GLIBC_2.2.5", "read"},
		{"memcpy@GLIBC_2.2.5", "memcpy"},
		{"@start", "@start"},
		{"_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"},
		{"_Z3addIiET_S0_S0_", "int add<int>(int, int)"},
		{"_ZN3foo3barEv.cold", "foo::bar() [clone .cold]"},
		{"_ZNKSt5ctypeIcE8do_widenEc@@GLIBCXX_3.4.11", "std::ctype<char>::do_widen(char) const"},
		{"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"},
		{"_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE", "<Test + 'static as foo::Bar<Test>>::bar"},
		{"_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"},
		{"_Znonsense", "_Znonsense"},
		{"_Z" + strings.Repeat("P", maxMangled), "_Z" + strings.Repeat("P", maxMangled)},
	} {
		if got := demangled(tt.name); got != tt.want {
			t.Errorf("%.80s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestDemangledLength holds the length of names whose back references double it at every step.
func TestDemangledLength(t *testing.T) {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	name := "_Z1f1PIiiE"
	for i := range len(digits) - 3 {
		ref := "S" + digits[i:i+1] + "_"
		name += "S_I" + ref + ref + "E"
	}
	if got := demangled(name); len(got) > 1<<maxDemangledPow || len(got) < 1000 {
		t.Errorf("%q became %d bytes", name, len(got))
	}
}
