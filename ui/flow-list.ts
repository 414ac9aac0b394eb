/** Thousands of rows, of which only those in view are in the document. */
import htm from 'htm';
import { h } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { FlowMessage } from '../daemon/messages.ts';
import { clock, destinationText, flowKey, withPort } from './model.ts';

const html = htm.bind(h);
const ROW_PX = 26;
const SPARE_ROWS = 8;

export function FlowList({ flows }: { flows: readonly FlowMessage[] }) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  useEffect(() => {
    const element = box.current!;
    const resized = new ResizeObserver(() => setHeight(element.clientHeight));
    resized.observe(element);
    return () => resized.disconnect();
  }, []);
  // Newest first.
  const first = Math.max(Math.floor(top / ROW_PX) - SPARE_ROWS, 0);
  const last = Math.min(first + Math.ceil(height / ROW_PX) + 2 * SPARE_ROWS, flows.length);
  const rows = Array.from({ length: Math.max(last - first, 0) }, (_, i) => ({
    index: first + i,
    flow: flows[flows.length - 1 - first - i]!,
  }));
  const total = useRef<HTMLDivElement>(null);
  const moved = useRef<HTMLDivElement>(null);
  useEffect(() => {
    total.current!.style.height = `${flows.length * ROW_PX}px`;
    moved.current!.style.top = `${first * ROW_PX}px`;
  });
  return html`<div>
    <div
      class="list"
      ref=${box}
      tabindex="0"
      role="table"
      aria-label="Flows, newest first"
      aria-rowcount=${flows.length}
      onScroll=${(event: Event) => setTop((event.currentTarget as HTMLElement).scrollTop)}
    >
      <div ref=${total}>
        <div class="window" ref=${moved}>${rows.map(({ index, flow }) => Row(index, flow))}</div>
      </div>
    </div>
  </div>`;
}

function Row(index: number, flow: FlowMessage) {
  const { time, verdict, reason, protocol, source, because } = flow;
  return html`<div role="row" key=${flowKey(flow)} aria-rowindex=${index + 1}>
    <span role="cell">${clock(time)}</span>
    <span role="cell" class=${verdict === 'dropped' ? 'bad' : 'good'}>${verdict}</span>
    <span role="cell">${protocol}</span>
    <span role="cell" title=${source.address}>${withPort(source)}</span>
    <span role="cell" title=${destinationText(flow)}>${destinationText(flow)}</span>
    <span role="cell" title=${because ?? reason ?? ''}>
      ${reason === null ? '' : because === null ? reason : `${reason}: ${because}`}
    </span>
  </div>`;
}
