// Service answers HTTP requests, and sends itself some. Its hot function is too large to be inlined unless a profile
// says that it is hot.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// weigh is above the compiler's budget of 80 nodes and below that of hot calls.
func weigh(s string, seed uint32) uint32 {
	h := seed
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
			h = h*31 + uint32(c-'a')
		case c >= 'A' && c <= 'Z':
			h = h*37 + uint32(c-'A')
		case c >= '0' && c <= '9':
			h = h*41 + uint32(c-'0')
		default:
			h = h*43 ^ h>>7
		}
		h ^= h << 5
		h += h >> 3
	}
	return h
}

func serve(w http.ResponseWriter, r *http.Request) {
	text := strings.Repeat(r.URL.Query().Get("text"), 50)
	sum := uint32(0)
	for i := range uint32(2000) {
		sum += weigh(text, i)
	}
	fmt.Fprintln(w, sum)
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(l, http.HandlerFunc(serve))) }()
	for i := 0; ; i++ {
		answer, err := http.Get("http://" + l.Addr().String() + "/?text=Request" + strconv.Itoa(i))
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			log.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil {
			log.Fatal(err)
		}
	}
}
