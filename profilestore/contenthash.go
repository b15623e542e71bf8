package profilestore

import (
	"encoding/binary"
	"hash/maphash"
)

// contentHash stands for content. It has 128 bits, made with seeds that nobody knows: of ten million contents two have the same
// with a probability of 2^-82.
type contentHash [2]uint64

type contentSeeds [2]maphash.Seed

func newContentSeeds() contentSeeds { return contentSeeds{maphash.MakeSeed(), maphash.MakeSeed()} }

func (s *contentSeeds) hash(content []byte) contentHash {
	return contentHash{maphash.Bytes(s[0], content), maphash.Bytes(s[1], content)}
}

// appendTo appends h to content that is made of others.
func (h contentHash) appendTo(content []byte) []byte {
	return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(content, h[0]), h[1])
}
