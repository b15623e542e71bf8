// Command mix is the Go part of the mix load: a small service's work, JSON in and out, hashing, sorting,
// compression, on goroutines that hand work to each other.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

type order struct {
	ID       int               `json:"id"`
	Customer string            `json:"customer"`
	Items    []item            `json:"items"`
	Tags     map[string]string `json:"tags"`
}

type item struct {
	SKU   string  `json:"sku"`
	Price float64 `json:"price"`
	Count int     `json:"count"`
}

func makeOrder(id int) order {
	o := order{ID: id, Customer: "customer-" + strconv.Itoa(id%97), Tags: map[string]string{"region": "north"}}
	for i := range 20 {
		o.Items = append(o.Items, item{SKU: fmt.Sprintf("sku-%04d", (id*31+i*17)%9973), Price: float64(i) * 1.5, Count: i % 5})
	}
	return o
}

func handle(body []byte) ([]byte, error) {
	var o order
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, err
	}
	slices.SortFunc(o.Items, func(a, b item) int { return strings.Compare(a.SKU, b.SKU) })
	for i := range o.Items {
		sum := sha256.Sum256([]byte(o.Items[i].SKU))
		o.Tags[o.Items[i].SKU] = hex.EncodeToString(sum[:8])
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if err := json.NewEncoder(w).Encode(o); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func run(d time.Duration) error {
	start := time.Now()
	requests := make(chan []byte)
	failed := make(chan error, 1)
	go func() {
		defer close(requests)
		for id := 0; time.Since(start) < d; id++ {
			body, err := json.Marshal(makeOrder(id))
			if err != nil {
				failed <- err
				return
			}
			requests <- body
		}
	}()
	iterations := 0
	for body := range requests {
		if _, err := handle(body); err != nil {
			return err
		}
		iterations++
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Printf("{\"program\":\"mix-go\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%d}\n",
		os.Getpid(), time.Since(start).Seconds(), iterations)
	return nil
}

func main() {
	seconds, err := strconv.ParseFloat(append(os.Args, "")[1], 64)
	if err != nil || len(os.Args) != 2 || seconds <= 0 {
		fmt.Fprintf(os.Stderr, "usage: %s SECONDS\n", os.Args[0])
		os.Exit(2)
	}
	// One part among seven: on a large machine it must not take all CPUs.
	runtime.GOMAXPROCS(2)
	if err := run(time.Duration(seconds * float64(time.Second))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
